"""The query language: text to tree, tree to functions, and the query plans that clients ask for.

Grammar and semantics: https://learn.microsoft.com/azure/cosmos-db/nosql/query/.
"""
