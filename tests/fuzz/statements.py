"""What forwards are written of: one line of the table is one way in which people write them.

``<x>`` is an image of the forward, ``<y>`` one of the same shape (perhaps the same), ``<t>`` any tensor, ``<new>`` a
name that is new. ``<c>`` is the number of channels of ``<x>``, ``<nd>`` its number of spatial axes, ``<ones>`` and
``<nones>`` one entry for each of those, ``<k>`` a number. All others are attributes made for the occasion: layers
(``<conv>``, ``<norm>``, ``<keep>`` for one that keeps the shape, ``<widen>`` for one to six channels and ``<narrow>``
for one from six, ``<layer>`` for any, ``<again>`` for one that is there already, ``<block>`` for a module of a
generated class, ``<list>`` for a `ModuleList` of layers that keep the shape),
``<p>`` a parameter for each channel, ``<s>`` one of no axes, ``<b>`` a buffer for each channel, ``<f>`` a number.
"""

from __future__ import annotations

PRELUDE = """
import collections, functools, itertools, math, operator
import torch
from torch import nn
from torch.nn import functional as F

Pair = collections.namedtuple("Pair", "first second")
TWO = 2

def residual(f, x):
    return x + f(x)

def total(first, *rest, scale=1):
    for one in rest:
        first = first + one
    return first * scale

class Base(nn.Module):
    gain = 0.5
    def __init__(self, flag=True, times=1, act=None):
        super().__init__()
        self.flag, self.times = flag, times
        self.act = nn.Identity() if act is None else act
    @property
    def doubled(self):
        return self.gain * 2
    @staticmethod
    def joined(a, b):
        return a + b
    def halved(self, x):
        return x * self.gain
"""

LAYERS = """
<new> = <conv>(<x>)
<new> = <conv>(<x>)
<new> = <conv>(<x>)
<new> = <norm>(<x>)
<new> = <norm>(<x>)
<new> = <norm>(<x>)
<new> = <norm>(<conv>(<x>))
<new> = <norm>(<conv>(<x>))
<new> = <conv>(<norm>(<x>))
<new> = <keep>(<x>)
<new> = <keep>(<x>)
<new> = <layer>(<x>)
<new> = <layer>(<x>)
<new> = <again>(<x>)
<new> = <again>(<x>)
<new> = <block>(<x>)
<new> = <block>(<x>)
<new> = <block>(<block>(<x>))
<new> = <block>(<x>) + <block>(<x>)
<new> = <block>(v0=<x>)
<new> = <block>(<x>, <y>)
<new> = <block>(<x>, extra=<y>)
<new> = <block>(<x>, scale=<k>)
<new> = <block>.forward(<x>)
<new> = <again>.forward(<x>)
<new> = <keep>(input=<x>)
<x> = <keep>(<x>)
<x> = <norm>(<x>)
<new> = <transposed>(<x>)
<new> = <linear>(<x>.movedim(1, -1)).movedim(-1, 1)
<new> = <linear>(<x>.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(<x>.shape)
<new> = <linear>(<x>.mean(<axes>))<nones_tail>
<new> = self.act(<x>)
<new> = <widen>(<x>); <new> = <narrow>(<new>)
<new> = <widen>(<x>); <new2> = <narrow>(<new>) * <new>.shape[1]
<new> = <widen>(<x>); <new2> = <narrow>(<new>) / <new>.numel()
<new> = <widen>(<x>); <new2> = <narrow>(<new>).reshape(<new>.shape[0], -1, *<new>.shape[2:])
<new> = <widen>(<x>); <new2> = <narrow>(<new>) if <new>.shape[-1] > 6 else <narrow>(<new>)
"""

SUMS = """
<new> = <keep>(<x>) + <keep>(<x>)
<new> = <keep>(<x>) + <keep>(<x>)
<new> = <norm>(<keep>(<x>)) + <keep>(<x>)
<new> = <norm>(<keep>(<x>)) + <norm>(<x>)
<new> = <norm>(<keep>(<x>)) + <x>
<new> = <x> + <keep>(<x>)
<new> = <keep>(<x>) - <keep>(<x>)
<new> = <x> + <y>
<new> = <x> + <y>
<new> = <x> + <y>
<new> = <x> - <y>
<new> = <x> * <y>
<new> = torch.add(<x>, <y>, alpha=<k>)
<new> = torch.sub(<x>, <y>, alpha=TWO)
<new> = <x>.add(<y>)
<new> = sum([<x>, <y>, <keep>(<x>)])
<new> = sum(m(<x>) for m in <list>)
<new> = total(<x>, <y>, <keep>(<x>), scale=<k>)
<new> = torch.stack([<x>, <y>]).sum(0)
<new> = torch.stack([m(<x>) for m in <list>], dim=0).mean(dim=0)
<new> = functools.reduce(operator.add, [m(<x>) for m in <list>])
<new> = self.joined(<x>, <keep>(<y>))
<new> = residual(<keep>, <x>)
<new> = torch.lerp(<x>, <y>, 0.25)
<new> = <x> + (<y> if self.flag else 0)
<new> = self.act(<keep>(<x>) + <keep>(<x>))
<new> = self.act(<keep>(<x>) + <x>)
<new> = torch.where(<x> > 0, <x>, <y> * 0)
<new> = torch.cat([<x>, <y>], 1)
<new> = torch.cat((<keep>(<x>), <x>), dim=1)
<new> = torch.cat([<x>, <y>], 0)[: <x>.size(0)]
<new> = torch.addcmul(<x>, <y>, <y>, value=0.1)
"""

SCALES = """
<new> = <x> * <k>
<new> = <k> * <x>
<new> = <x> / 2
<new> = -<x>
<new> = <k> - <x>
<new> = <x> + <k>
<new> = <x> * <p>.view(1, -1<ones>)
<new> = <x> * <p>[:<nones>]
<new> = <x> * <p>.reshape(1, <c><ones>) + <p>.view(1, -1<ones>)
<new> = <x> * torch.sigmoid(<p>).view(1, -1<ones>)
<new> = <x> + <b>.view(1, -1<ones>)
<new> = (<x> - <b>.view(-1<ones>)) / (<b>.view(-1<ones>).abs() + 1)
<new> = <x> * <s>
<new> = <x> * torch.tensor(<k>, dtype=<x>.dtype)
<new> = <x> * <s>.exp() + <s>
<new> = <x> * <f>
<new> = self.halved(<x>)
<new> = <x> * self.doubled
<new> = <x> * len(<list>)
<new> = <x> / <x>.shape[-1]
<new> = <x> * <x>.size(1) ** -0.5
<new> = <x> / math.sqrt(<x>.shape[1])
<new> = <x> * torch.ones(<x>.shape[1]).to(<x>).view(1, -1<ones>)
<new> = <x> * torch.arange(1, <c> + 1).to(<x>).view(1, -1<ones>)
<new> = <x> * torch.sigmoid(<x>.mean(<axes>, keepdim=True))
<new> = F.conv<nd>d(<x>, <convp>.weight, <convp>.bias, padding=1)
<new> = F.conv<nd>d(<x>, <convp>.weight * <k>, None, padding=1)
<new> = F.batch_norm(<x>, <norm>.running_mean, <norm>.running_var, <norm>.weight, <norm>.bias, False, 0.1, 1e-5)
<new> = F.avg_pool<nd>d(<x>, 3, 1, 1)
<new> = F.pad(<x>, (1, 1)) [..., 1:-1]
<new> = <conv>(F.pad(<x>, (1,) * (2 * <nd>)))
<new> = F.dropout(<x>, 0.5, self.training)
<new> = F.dropout(<x>, 0.5, training=False)
"""

VIEWS = """
<new> = <x>.view(<x>.size(0), -1).view(<x>.shape)
<new> = <x>.flatten(2).reshape(<x>.shape)
<new> = <x>.transpose(1, 2).contiguous().transpose(1, 2)
<new> = <x>.movedim(1, -1).movedim(-1, 1)
<new> = <keep>(<x>.transpose(-1, -1))
<new> = <x>[:, : <c> // 2]
<new> = <x>[:, ::2]
<new> = <x>[:, [1, 0]]
<new> = <x>[..., 1:-1]
<new> = <x>[..., : <x>.shape[-1] // 2]
<new> = <x>.narrow(-1, 1, <x>.size(-1) - 2)
<new> = <x>.flip(1)
<new> = <x>.roll(1, 1)
<new> = <x>.unsqueeze(0).squeeze(0)
<new>, <new2> = <x>.chunk(2, 1)
<new>, <new2> = torch.split(<x>, <c> // 2, dim=1)
<new>, <new2> = <conv>(<x>).chunk(2, dim=1)
<new>, *<new2> = <x>.unbind(0); <new> = torch.stack([<new>, *<new2>])
<new> = torch.cat(torch.chunk(<x>, 2, 1)[::-1], 1)
<new> = torch.cat([<x>[:, :1], <keep>(<x>)[:, 1:]], 1)
<new> = <x>.view(<x>.shape[0], 2, -1, *<x>.shape[2:]).transpose(1, 2).reshape(<x>.shape)
<new> = <x>.clone()
<new> = <x>.contiguous()
<new> = <x>.detach()
<new> = <x>.to(torch.float64)
<new> = <x>.type_as(<y>)
<new> = <x>.expand_as(<x>)
<new> = <x>.mean(<axes>, keepdim=True)
<new> = F.interpolate(<x>, scale_factor=2.0)
<new> = F.interpolate(<x>, size=<y>.shape[2:])
<new> = <x>
<new> = <new2> = <x>
<new> = <y> = <x>
<new> = F.relu(<x>)
<new> = torch.relu(<x>)
<new> = <x>.sigmoid()
<new> = F.hardtanh(<x>)
<new> = <x>.softmax(1)
<new> = F.layer_norm(<x>, <x>.shape[1:])
"""

IN_PLACE = """
<x> += <y>
<x> += <keep>(<y>)
<x> -= <keep>(<x>)
<x> *= <k>
<x> *= <p>.view(1, -1<ones>)
<x>.add_(<y>)
<x>.add_(<keep>(<x>), alpha=<k>)
<new> = <x>.mul_(<k>)
<new> = <keep>(<x>).add_(<y>)
<new> = <norm>(<keep>(<x>)).add_(<x>)
<new> = F.relu_(<x>)
<new> = F.relu(<x>, inplace=True)
<new> = F.relu(<x>, True)
<x>.relu_()
<new> = <x>.clamp_(min=-1)
<x>[:, :1] = <y>[:, :1]
<x>[:, 0] += 1
<x>[..., 0] = 0
<x>[:] = <keep>(<y>)
<x>.copy_(<y>)
<x>.zero_()
<x>[:, : <c> // 2].mul_(<k>)
<x>.view(-1)[0] = 0
<x>.data.mul_(<k>)
<x>.transpose(1, 2).add_(1)
torch.add(<x>, <y>, out=<x>)
<new> = torch.empty_like(<x>); torch.mul(<x>, <k>, out=<new>)
<new> = torch.zeros_like(<x>); <new> += <keep>(<x>); <new> += <keep>(<x>)
<new> = <x>.new_zeros(<x>.shape); <new>[:, :1] = <x>[:, :1]
<new> = <keep>(<x>); <new2> = <new>; <new2> += <x>
<new> = <keep>(<x>); <new2> = <new>.view(<new>.shape); <new2> *= <k>; <new> = <norm>(<new>)
<new> = <norm>(<keep>(<x>)); <new> += <keep>(<y>)
<new> = <norm>(<keep>(<x>)); <new>.relu_()
"""

CONTROL = """
if self.flag: <x> = <keep>(<x>)
if not self.flag: <x> = <keep>(<x>)
<new> = <keep>(<x>) if self.flag else <x>
if <x>.shape[1] == <c>: <x> = <norm>(<x>)
if <x>.dim() > 3: <x> = <keep>(<x>)
if <x>.shape[-1] % 2: <x> = <keep>(<x>)
if <x>.mean() > 0.01: <x> = <keep>(<x>)
if self.training: <x> = <x> * 0
if isinstance(<x>, torch.Tensor): <x> = <keep>(<x>)
if hasattr(self, "absent"): <x> = self.absent(<x>)
if torch.is_tensor(<x>) and len(<x>) > 0: <x> = <norm>(<keep>(<x>))
if extra is not None: <x> = <x> + <keep>(extra)
if extra is None: <x> = <norm>(<x>)
<new> = <x> * scale
assert <x>.shape[1] == <c>, f"expected <c>, got {<x>.shape}"
for _ in range(self.times): <x> = <keep>(<x>)
for m in <list>: <x> = m(<x>)
for m in <list>: <x> = <x> + m(<x>)
for i, m in enumerate(<list>): <x> = m(<x>) * (i + 1)
for i in range(len(<list>)): <x> = <list>[i](<x>)
for name, m in <dict>.items(): <x> = m(<x>) if name != "b" else <x> + m(<x>)
<new> = <dict>["a"](<x>)
<new> = getattr(self, f"{'<keepname>'}")(<x>)
<new> = [m(<x>) for m in <list>][-1]
<new> = (lambda v: <keep>(v))(<x>)
<new> = (lambda f, v: f(f(v)))(<keep>, <x>)
<new> = {"a": <keep>(<x>), "b": <x>}["a"]
<new> = Pair(<keep>(<x>), <x>).first
<new> = [*map(<keep>, [<x>, <y>])][0]
<new> = next(m(<x>) for m in <list>)
<new> = nn.Sequential(*<list>)(<x>)
<new> = <list>[0](<list>[-1](<x>))
self.kept = <x>
self.kept = <keep>(<x>)
self.kept = <x>; <new> = self.kept + <keep>(self.kept)
self.calls = getattr(self, "calls", 0) + 1
<new> = <unregistered>[0](<x>)
<new> = <alias>(<x>)
<new> = <keep>(<x>); del <new>; <new> = <x>
with torch.no_grad(): <new> = <keep>(<x>)
with torch.no_grad(): <x> = <norm>(<x>)
with torch.set_grad_enabled(False): <new> = <keep>(<x>) + <keep>(<x>)
with torch.autocast("cpu", enabled=False): <x> = <norm>(<x>)
with torch.enable_grad(): <new> = <norm>(<keep>(<x>))
<new> = <x> if <x>.size(0) > 100 else <keep>(<x>)
<new> = <keep>(<x>) if <x>.requires_grad else <keep>(<x>)
<new> = <keep>(<x>) + <x>.shape[-1]
<new> = torch.utils.checkpoint.checkpoint(<keep>, <x>, use_reentrant=False)
<new> = functools.partial(total, scale=<k>)(<keep>(<x>), <x>)
<new> = torch.einsum("nc...,oc->no...", <x>, <convp>.weight.flatten(2).sum(2))
while <x>.shape[0] > 100: <x> = <x>[1:]
print(end="")
<new> = <keep>(<x>); <new>.mean().item()
torch._assert(<x>.shape[1] == <c>, "channels")
"""

TABLES = {
    "layers": (LAYERS, 8),
    "sums": (SUMS, 6),
    "scales": (SCALES, 2),
    "views": (VIEWS, 3),
    "in place": (IN_PLACE, 2),
    "control": (CONTROL, 3),
}
STATEMENTS: dict[str, tuple[str, ...]] = {
    kind: tuple(line for line in table.splitlines() if line) for kind, (table, _) in TABLES.items()
}
WEIGHTS = {kind: weight for kind, (_, weight) in TABLES.items()}

RETURNS = (
    *["<x>"] * 8,
    *["<x>, <t>", "<t>, <x>", "[<x>, <t>]", '{"out": <x>, "more": <t>}', "(<x>, [<t>, <x>])", "Pair(<x>, <t>)"],
    *["<x>, None", "(<x>,)", "<x>, <x>.shape[-1]", "<x>.mean()", "<keep>(<x>)", "<x>[0]", "<x> + <keep>(<x>)"],
    *["<x>.flatten(1)", "<x>, self.kept", "{**dict(a=<x>)}", "<x> * 1", "<x> if self.flag else <t>"],
)

HEADERS = ("v0", "v0", "v0", "v0, extra=None", "v0, scale=1.0", "v0, *rest, **more", "v0, extra=None, *, scale=1.0")
