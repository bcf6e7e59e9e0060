"""The vocabulary of QStash: headers, delay expressions."""
