"""The verbs of a store on a SQL database, written with named statements that each dialect defines and runs."""
