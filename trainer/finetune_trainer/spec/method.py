"""Which weights are trained."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_trainer.spec.base import Part
from finetune_trainer.spec.names import ModulePattern

ALL_LINEAR = "all-linear"


class MethodType(StrEnum):
    """Which weights are trained."""

    FULL = "Full"
    LORA = "LoRA"
    QLORA = "QLoRA"


class Initialization(StrEnum):
    """What the adapters are before the first step."""

    DEFAULT = "Default"
    PISSA = "PiSSA"
    OLORA = "OLoRA"


class QuantType(StrEnum):
    """Data type of quantised weights."""

    NF4 = "NF4"
    FP4 = "FP4"


Rank = Annotated[int, Field(ge=1, le=4096)]
Alpha = Annotated[int, Field(ge=1, le=65536)]
Patterns = Annotated[tuple[ModulePattern, ...], Field(max_length=64)]
SomePatterns = Annotated[tuple[ModulePattern, ...], Field(min_length=1, max_length=64)]


class ModuleRank(Part):
    """Rank and alpha of some of the adapted modules."""

    modules: SomePatterns
    """Which ones: names, name endings, or globs on the full name, as in `targetModules`."""

    rank: Rank | None = None
    """Their rank, where it is another one than `lora.rank`."""

    alpha: Alpha | None = None
    """Their alpha, where it is another one than `lora.alpha`."""


class LoRA(Part):
    """Low-rank adapters beside frozen weights (arXiv:2106.09685).

    Defaults: every linear layer, which beats attention-only at equal parameter count ("LoRA Without Regret",
    thinkingmachines.ai, 2025); rank 16 with alpha 32, the setting of NeMo AutoModel's recipes; no dropout, which costs
    a pass over the activations and fused kernels.
    """

    rank: Rank = 16
    """Rank of the adapters."""

    alpha: Alpha = 32
    """Scale of the adapters: their output is multiplied by alpha / rank."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the adapter's inputs that is dropped while training."""

    target_modules: SomePatterns = (ALL_LINEAR,)
    """Modules that get an adapter: names or name endings such as `q_proj`, or `all-linear` alone."""

    per_module: Annotated[tuple[ModuleRank, ...], Field(max_length=64)] = ()
    """Other ranks and alphas for some of these modules; the first entry that names a module decides."""

    dora: bool = False
    """Train the length of each of a weight's rows beside its direction (DoRA, arXiv:2402.09353)."""

    rslora: bool = False
    """Divide alpha by the root of the rank (rsLoRA, arXiv:2312.03732), so that high ranks learn as fast as low ones."""

    initialization: Initialization = Initialization.DEFAULT
    """What the adapters are before the first step: nothing (`Default`), or a part that is taken out of the weights, of
    the largest singular values (`PiSSA`, arXiv:2404.02948) or the first columns of the QR decomposition (`OLoRA`,
    arXiv:2406.01775). What is exported fits the model's own weights in any case."""

    learning_rate_ratio: Annotated[float, Field(ge=1, le=1024)] = 1.0
    """Learning rate of the adapters' second matrix, B, over that of everything else (LoRA+, arXiv:2402.12354: 16)."""

    modules_to_save: Patterns = ()
    """Modules that are trained whole beside the adapters, and saved with them: for instance `lm_head`, or `norm`."""

    @property
    def takes_weights(self) -> bool:
        """Whether the adapters begin as a part that is taken out of the weights, and not as nothing."""
        return self.initialization is not Initialization.DEFAULT


class QLoRA(Part):
    """How the frozen weights are held in 4 bits (QLoRA, arXiv:2305.14314); they are computed with in `precision`."""

    quant_type: QuantType = QuantType.NF4
    """Values that 4 bits stand for: those of a normal distribution (`NF4`), or a floating-point number (`FP4`)."""

    double_quantization: bool = True
    """Quantise the scales too, which saves 0.4 bits a weight."""


class Full(Part):
    """Which of the weights are trained. Patterns name weights, or modules with all that is in them."""

    train: SomePatterns = ("*",)
    """Weights to train: names, name endings, or globs on the full name; all of them when left out."""

    freeze: Patterns = ()
    """Those of them that stay as they are."""


class Method(Part):
    """Which weights are trained, and how."""

    type: MethodType
    """`Full` trains all weights, `LoRA` trains adapters beside the frozen weights, `QLoRA` beside such in 4 bits."""

    lora: LoRA | None = None
    """Options of `type: LoRA` and `type: QLoRA`; filled with their defaults when left out there."""

    qlora: QLoRA | None = None
    """Options of `type: QLoRA`; filled with their defaults when left out there."""

    full: Full | None = None
    """Options of `type: Full`; everything is trained when left out."""
