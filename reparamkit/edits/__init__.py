"""edits: how a region of a flow becomes a change of the model.

region, host               what can be replaced, and by which edit: start here
edit, swap, rewrite, ends  modules exchanged, or one forward written anew
ways                       forwards that go several ways
emit, naming, rewritten    the new forward: its code, the name in it, the class that has it
steps, copies, splice      what is to be done to which module; `splice` alone changes a model
"""
