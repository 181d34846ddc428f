"""What the server holds, made ready: the chain, the gradient in float64, the noise, the labels."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seepage import tree
from seepage.attacks.rgap.losses import LossForm, recognised
from seepage.chains import Block, Chain, Layer, Linked
from seepage.clients import FedAvg, FedSGD, SecureSum
from seepage.core import Batch, Client, Model, Observation
from seepage.errors import InvalidInput
from seepage.tree import Tensors

_CLIPPED = ("Clip", "DPSGD")


@dataclass(frozen=True, eq=False)
class Problem:
    """The chain of layers with the gradient of each, as one client's one example gave it.

    `gradient` has the learning rate undone, `sigma` is the standard deviation of its noise (None:
    not known), `label` what the threat model tells (-1 or +1 for a logistic loss).
    """

    chain: Chain
    model: Model
    gradient: Tensors
    loss: LossForm
    label: int | None
    clipped: bool = False
    sigma: float | None = None

    @property
    def relative(self) -> float:
        """The noise as a share of the gradient's length."""
        return (self.sigma or 0.0) * math.sqrt(tree.size(self.gradient)) / self.length

    @property
    def length(self) -> float:
        return float(tree.norm(self.gradient))

    @property
    def head_noise(self) -> float:
        """The noise that the last gradient shows: under cross-entropy its rows add up to zero."""
        if self.loss.kind != "softmax":
            return 0.0
        weight = self.weight(-1)
        return float(weight.sum(0).norm()) / math.sqrt(weight.numel())

    @property
    def rank(self) -> int:
        """The rank of the last gradient above its noise: one for one example."""
        weight = self.weight(-1)
        sizes = torch.linalg.svdvals(weight)
        edge = math.sqrt(weight.shape[0]) + math.sqrt(weight.shape[1])
        floor = max(1e-5 * float(sizes[0]), 2 * self.head_noise * edge)
        return int((sizes > floor).sum())

    def weight(self, i: int) -> Tensor:
        return self.gradient[self.chain.layers[i].weight_name]

    def bias(self, i: int) -> Tensor | None:
        layer = self.chain.layers[i]
        return None if layer.bias is None else self.gradient.get(layer.bias_name)

    def scaled(self, factor: float) -> "Problem":
        """The same where clipping by this factor is undone."""
        sigma = None if self.sigma is None else self.sigma / factor
        gradient = tree.scale(self.gradient, 1 / factor)
        return dataclasses.replace(self, gradient=gradient, sigma=sigma)

    def answer(self, label: int | None) -> Tensor | None:
        """A label as the model's loss writes it."""
        return None if label is None or self.loss.kind == "other" else self.loss.encode(label)

    def gradient_at(self, x: Tensor, label: int | None, k: Tensor) -> Tensors:
        """The gradient that this candidate gives, of the parameters that were shared."""
        names = list(self.gradient)
        params = {n: p.detach().requires_grad_() for n, p in self.model.params.items()}
        y = self.answer(label)
        with torch.enable_grad():
            if y is None:
                risk = (self.model.predict(x[None], params).reshape(-1) * k).sum()
            else:
                risk = self.model.risk(params, Batch(x[None], _exact(y)))
            wanted = [params[name] for name in names]
            found = torch.autograd.grad(risk, wanted, materialize_grads=True)
        return dict(zip(names, found, strict=True))

    def misfit(self, batch: Batch) -> float:
        """|G(x, y) - g| / |g| of several examples."""
        names = list(self.gradient)
        params = {n: p.detach().requires_grad_() for n, p in self.model.params.items()}
        with torch.enable_grad():
            risk = self.model.risk(params, batch)
            found = torch.autograd.grad(
                risk, [params[name] for name in names], materialize_grads=True
            )
        difference = tree.subtract(dict(zip(names, found, strict=True)), self.gradient)
        return float(tree.norm(difference)) / self.length

    def residual(self, x: Tensor, label: int | None, k: Tensor) -> float:
        """|G(x, y) - g| / |g| over all tensors: the certificate."""
        difference = tree.subtract(self.gradient_at(x, label, k), self.gradient)
        return float(tree.norm(difference)) / self.length


def problem(seen: Observation, found: Linked, noise: float | None) -> Problem:
    """Refuse what R-GAP cannot do, before any work; else make the observation ready.

    Where the network has blocks the problem's chain is its last layer.
    """
    layers = tuple(link for link in found.links if isinstance(link, Layer))
    blocks = [link for link in found.links if isinstance(link, Block)]
    inside = [layer for block in blocks for layer in block.layers]
    if not layers or layers[-1] is not found.links[-1]:
        raise InvalidInput(
            f"RGap: '{found.links[-1].name}' is last, and R-GAP starts from a Linear layer. Use "
            "Invert(), or rank.jacobian() to measure exposure."
        )
    chain = Chain(layers[-1:] if blocks else layers, found.before, found.shape)
    protocol = _protocol(seen.client, seen.model)
    gradient = _gradient(seen, [*inside, *layers], protocol)
    head = chain.layers[-1]
    if float(gradient[head.weight_name].norm()) == 0:
        raise InvalidInput(
            f"RGap: the gradient of layer '{head.name}' is zero: its label is fitted perfectly, "
            "or the layer is dead. Observe an earlier round, or use Invert()."
        )
    outputs = head.outputs[0] if len(head.outputs) == 1 else 0
    loss = recognised(seen.model.loss, outputs, gradient[head.weight_name])
    exact = dataclasses.replace(
        seen.model,
        params=tree.mapped(Tensor.double, seen.model.params),
        buffers=tree.mapped(_exact, seen.model.buffers),
    )
    sigma = noise if noise is not None else protocol.noise(seen.update)
    sigma = None if sigma is None else sigma / protocol.rate
    made = Problem(chain, exact, gradient, loss, _label(seen, loss), protocol.clipped, sigma)
    _check_head(made)
    if blocks and made.bias(-1) is None and chain.layers[-1].outputs[0] < 3:
        raise InvalidInput(
            f"RGap: '{blocks[-1].name}' is a residual block, and the last layer has one or two "
            "outputs and no bias: R-GAP tells several answers apart in chains only. Use Invert()."
        )
    return made


@dataclass(frozen=True)
class _Protocol:
    """What lies between the gradient and the update, as far as it can be undone."""

    rate: float = 1.0
    decay: float = 0.0
    clipped: bool = False
    std: float | None = None
    relative: bool = False

    def noise(self, update: Tensors) -> float | None:
        if self.std is None or not self.relative:
            return self.std
        return self.std * float(tree.norm(update)) / math.sqrt(tree.size(update))


def _protocol(client: Client, model: Model) -> _Protocol:
    """Read the believed client from the outside in; other defenses are judged by the residual."""
    inner: Any = getattr(client, "inner", None)
    found = _Protocol() if inner is None else _protocol(inner, model)
    if isinstance(client, FedSGD):
        _check_mode(client, model)
    if isinstance(client, FedAvg):
        _check_one_step(client)
        rate = found.rate * client.lr
        return dataclasses.replace(found, rate=rate, decay=client.weight_decay)
    if isinstance(client, SecureSum) and client.users > 1:
        raise InvalidInput(
            f"RGap: {client!r} sums {client.users} users, and R-GAP reads one example. "
            "Use Invert(), or Span() for a wide first layer."
        )
    if type(client).__name__ in _CLIPPED:
        found = dataclasses.replace(found, clipped=True)
    std = getattr(client, "std", None)
    if isinstance(std, int | float) and std > 0:
        relative = bool(getattr(client, "relative", False))
        found = dataclasses.replace(found, std=float(std), relative=relative)
    return found


def _check_mode(client: FedSGD, model: Model) -> None:
    if client.mode == "eval":
        return
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for name, module in model.module.named_modules():
        if isinstance(module, kinds):
            raise InvalidInput(
                f"RGap: layer '{name}' ({type(module).__name__}) runs in train mode, so that the "
                "map is not the broadcast one. R-GAP needs FedSGD('eval'); use Invert()."
            )


def _check_one_step(client: FedAvg) -> None:
    if client.epochs > 1 or client.optimizer != "sgd":
        raise InvalidInput(
            f"RGap: {client!r} is not one step of SGD, and R-GAP needs the gradient itself. "
            "Use Invert(), which simulates the local steps."
        )


def _gradient(seen: Observation, layers: list[Layer], protocol: _Protocol) -> dict[str, Tensor]:
    params = seen.model.params
    wanted = [layer.weight_name for layer in layers]
    if layers[-1].bias is not None and layers[-1].bias_name in params:
        wanted.append(layers[-1].bias_name)
    for name in wanted:
        if name not in seen.update:
            raise InvalidInput(
                f"RGap: the update holds no tensor '{name}', which R-GAP needs: the gradients of "
                "all weights of the chain, and of the last bias. Use Invert() on a part of them."
            )
    update = {name: seen.update[name] for name in params if name in seen.update}
    tree.check_names(update, {name: params[name] for name in update}, "RGap: the update")
    tree.check_finite(update, "RGap: the update")
    return {
        name: u.double() / protocol.rate - protocol.decay * params[name].double()
        for name, u in update.items()
    }


def _label(seen: Observation, loss: LossForm) -> int | None:
    if seen.y is None or loss.kind == "other":
        return None
    if loss.kind == "softmax":
        return int(seen.y.reshape(-1)[0])
    return 1 if float(seen.y.reshape(-1)[0]) > 0 else -1


def _check_head(made: Problem) -> None:
    layer, loss = made.chain.layers[-1], made.loss
    biased = made.bias(-1) is not None
    where = f"RGap: layer '{layer.name}' ({layer.kind})"
    if layer.window is not None:
        raise InvalidInput(
            f"{where} is last, and R-GAP starts from a Linear layer. Use Invert(), or "
            "rank.jacobian() to measure exposure."
        )
    if not biased and loss.kind == "other":
        raise InvalidInput(
            f"{where} has no bias, and the loss is not known: {loss.note}. R-GAP needs "
            "cross-entropy, the logistic loss of one output, or a bias there; use Invert()."
        )
    if not biased and layer.bias is not None and loss.kind == "logistic":
        raise InvalidInput(f"{where} has a bias that is not trained; use Invert().")
    if layer.after.steps and not biased and not (layer.outputs == (1,) and layer.after.homogeneous):
        raise InvalidInput(
            f"{where} has {layer.after.name} on its output. Without a bias R-GAP needs the "
            "identity there, or LeakyReLU on one output; use Invert()."
        )
    few = layer.outputs in ((1,), (2,)) and not biased
    if made.clipped and (loss.kind == "other" or few):
        raise InvalidInput(
            f"{where}: the factor of clipping cannot be told from one or two outputs without a "
            "bias, nor for an unknown loss. Use Invert()."
        )


def _exact(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
