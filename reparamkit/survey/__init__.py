"""survey: what has to be known about a whole model first: which modules are shared, hooked, called and how often.

`look.survey` looks at a model and gives a `found.Survey`; `places.py` says at which of its paths a module is dealt
with, `observe.py` what an example tells beside the code.
"""

from reparamkit.survey.found import Survey, only_holds
from reparamkit.survey.hooks import HOOKS, hooked
from reparamkit.survey.look import survey

__all__ = ["HOOKS", "Survey", "hooked", "only_holds", "survey"]
