"""The verbs of a store on a SQL database, written on named statements: a dialect brings those, and carries them out."""
