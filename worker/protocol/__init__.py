"""The pending-head protocol as pure decisions: no await, no Azure, no clock, no logging.

`prepare` turns a command into sized documents, `plan` decides on a group of them, `writes` says which conditional
batch carries a decision out. The handler does the awaiting.
"""
