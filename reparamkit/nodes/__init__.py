"""nodes: what one node of a graph, or one module that it calls, says by itself.

Tracing and lifting both ask; nothing here knows of a model, a flow or a rule.

names, tree       what is called; a tree of arguments with every node replaced
ranks, shapes     how many axes a result has; which sizes are asked for
tensors, parts    whether a result is one tensor, or how many parts it has
inplace           whether a call changes what it is given
"""
