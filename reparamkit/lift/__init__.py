"""lift: the second stage. Traced forwards become values, each an operator of a source or opaque with a reason.

lifter                                 start here: forwards, one written into the other
calls, leaves, made, escapes           values of calls and of whole modules; who reads them from outside
ranks, cuts, constant                  what the graph tells of axes, channels, parts, numbers (one node alone: `nodes`)
link, chain, agree, sharing, own_layer how a value becomes an operator of another
inplace                                which values change while others are read
answer, onlooker                       what a rule may say of what it is shown, and do to it
"""
