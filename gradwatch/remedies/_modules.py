"""Modules that remedies put into a model.

They are importable, so that a model that was treated in a trial can be pickled; a prescription
shows their source (`_code.definition`), so that pasted code needs no gradwatch.
"""

import sys

import torch


class Residual(torch.nn.Module):
    def __init__(self, branch):  # type: ignore[no-untyped-def]
        super().__init__()
        self.branch = branch

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x + self.branch(x)


class ScaledResidual(torch.nn.Module):
    def __init__(self, branch, scale):  # type: ignore[no-untyped-def]
        super().__init__()
        self.branch = branch
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x + self.scale * self.branch(x)


class ProjectedResidual(torch.nn.Module):
    def __init__(self, branch, projection):  # type: ignore[no-untyped-def]
        super().__init__()
        self.branch, self.projection = branch, projection

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.projection(x) + self.branch(x)


class SwappedCalls(torch.overrides.TorchFunctionMode):
    """Stands for a module's forward, in which submodules answer some calls of a function."""

    def __init__(self, module, calls, swapped):  # type: ignore[no-untyped-def]
        super().__init__()
        self.module, self.forward = module, module.forward
        self.calls = calls  # {"sigmoid": 3}: how often the forward calls it
        self.swapped = swapped  # {("sigmoid", 0): "relu_0"}: which call is whose
        self.counts = dict.fromkeys(calls, 0)
        self.same = {"square": "pow", "__pow__": "pow", "special_expit": "sigmoid"}

    def __call__(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.counts = dict.fromkeys(self.calls, 0)
        with self:
            output = self.forward(*args, **kwargs)
        if self.counts != self.calls:  # no longer the forward that was looked at
            raise RuntimeError(f"calls {self.counts} and not {self.calls}: swap them by hand")
        return output

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")  # of one that works in place: "sigmoid_"
        name = self.same.get(name, name)
        direct = name in self.calls and self.running() is self.module  # type: ignore[no-untyped-call]
        if direct and not kwargs.get("inplace"):
            call = (name, self.counts[name])
            self.counts[name] += 1
            if call in self.swapped:
                new = self.module.get_submodule(self.swapped[call])
                return new(args[0] if args else kwargs["input"])
        return function(*args, **kwargs)

    def running(self):  # type: ignore[no-untyped-def]
        """Return the module whose forward this is called from; none may be in between."""
        frame = sys._getframe(2)
        while frame and frame.f_code is not torch.nn.Module._call_impl.__code__:
            frame = frame.f_back  # type: ignore[assignment]
        return frame.f_locals["self"] if frame else None


class LSTMLikeRNN(torch.nn.LSTM):
    """An LSTM that is called, and answers, as an RNN: its cell begins at zero in each call."""

    def forward(self, input, state=None):  # type: ignore[no-untyped-def]
        both = None if state is None else (state, torch.zeros_like(state))
        output, (state, _) = super().forward(input, both)
        return output, state


class Standardise:
    """A forward pre-hook: the model gets (inputs - mean) / std."""

    def __init__(self, mean, std):  # type: ignore[no-untyped-def]
        self.mean, self.std = mean, std

    def __call__(self, model, inputs):  # type: ignore[no-untyped-def]
        x, *more = inputs
        scaled = (x - self.mean.to(x.device)) / self.std.to(x.device)
        return scaled.to(x.dtype), *more


class StandardisedTargets:
    """A loss function on (targets - mean) / std: the model learns these, and answers them."""

    def __init__(self, loss_fn, mean, std):  # type: ignore[no-untyped-def]
        self.loss_fn, self.mean, self.std = loss_fn, mean, std

    def __call__(self, output, targets):  # type: ignore[no-untyped-def]
        scaled = (targets - self.mean.to(targets.device)) / self.std.to(targets.device)
        return self.loss_fn(output, scaled.to(targets.dtype))


class MatchedShapes:
    """A loss function that gives the targets the output's shape, where they fill it."""

    def __init__(self, loss_fn):  # type: ignore[no-untyped-def]
        self.loss_fn = loss_fn

    def __call__(self, output, targets):  # type: ignore[no-untyped-def]
        if targets.numel() == output.numel():
            targets = targets.reshape(output.shape)
        return self.loss_fn(output, targets)


class InFloat32:
    """A forward pre-hook: what comes in float16 or bfloat16 goes on in float32."""

    def __call__(self, layer, inputs):  # type: ignore[no-untyped-def]
        narrow = (torch.float16, torch.bfloat16)
        return tuple(x.float() if getattr(x, "dtype", None) in narrow else x for x in inputs)


class LogSoftmax:
    """A forward hook: log_softmax of the output, along an axis."""

    def __init__(self, axis):  # type: ignore[no-untyped-def]
        self.axis = axis

    def __call__(self, model, inputs, output):  # type: ignore[no-untyped-def]
        return output.log_softmax(self.axis)


class LearntScale:
    """A forward hook: the output times a factor that is a parameter of the model."""

    def __call__(self, model, inputs, output):  # type: ignore[no-untyped-def]
        return output * model.log_of_scale.exp()
