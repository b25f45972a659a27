"""trace: the first stage. One module's own forward becomes a graph, its children as leaves.

forward                                         start here: a forward runs on a recording twin of its module
traced, reasons                                 what comes of it, or why nothing does
tracer, twin, classes, proxies                  what is recorded
parameters, sized, statements                   with what it is called, and what it says
borders, strips, shuffles, unstacked, unread    several steps that are one: padding, a shuffle, an entry of a stack
symbols, bytecode, forks, ambient               what its code may ask, and every answer it may get
watch, held, userstate, lasting                 what it holds beside its modules, may change, leaves behind
calls, reuse                                    other calls than the plain one; modules that are alike
bypass, access, reading, things, source         what a forward that cannot be traced does, read from its source
"""
