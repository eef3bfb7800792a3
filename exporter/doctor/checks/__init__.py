"""The checks of `plimsoll doctor`, a module a topic; table.py has them in their order.

A check answers the question in its docstring, for each of its subjects. It judges what the probe found out (look.py)
and what the node's files say; it asks nobody itself.
"""
