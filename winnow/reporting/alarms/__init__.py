"""What goes wrong in a run: rules over its history, and what tells of them as it happens.

table.py has every alarm in a row; history.py is what the rules look at; watch.py raises and clears.
"""
