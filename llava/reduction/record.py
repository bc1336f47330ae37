"""What a stage did in a prefill."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from .ledger import Ledger
from .stage import Place, Stage, Where


@dataclass(frozen=True)
class Record:
    """What one stage did in one prefill.

    ``ledger`` is the sequence as it came in, ``chosen`` (B, S) the visual slots that were kept. At the sites before the
    language model a row is an image (before the layout a crop) and the sequence is its tokens. ``remarks`` says what a reader
    of the trace should know besides, such as a knob that the prompt contradicts. ``source`` (B, S): the slot whose token each
    kept slot goes on with, where a merge has changed their order.
    """

    stage: Stage
    ledger: Ledger
    chosen: Tensor
    notes: list[tuple[Tensor, dict]] = field(default_factory=list)
    remarks: tuple[str, ...] = ()
    source: Tensor | None = None

    @property
    def name(self) -> str:
        """The method's name."""
        return self.stage.name

    @property
    def site(self) -> Where:
        """Where the stage stands."""
        return self.stage.site

    @property
    def layer(self) -> int | None:
        """The stage's decoder layer."""
        return self.stage.layer

    @property
    def place(self) -> Place:
        """What became of the tokens that were not kept."""
        return self.stage.place

    @property
    def before(self) -> Tensor:
        """Visual tokens that came in: (B,)."""
        return self._candidates().sum(1)

    @property
    def after(self) -> Tensor:
        """Visual tokens kept: (B,)."""
        return self.chosen.sum(1)

    @property
    def kept(self) -> Tensor:
        """Which of the row's visual tokens were kept, counted through all its images: (B, k), padded with -1."""
        return self._counted(None)

    @property
    def onward(self) -> Tensor:
        """``kept`` in the order in which the tokens go on."""
        return self._counted(self.source)

    def _counted(self, source: Tensor | None) -> Tensor:
        order = self._candidates().long().cumsum(1) - 1
        order = order if source is None else order.gather(1, source)
        rows = [order[row][chosen] for row, chosen in enumerate(self.chosen)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def kept_origins(self, row: int, text: bool) -> Tensor:
        """Indices of the kept visual slots of a row in the unreduced sequence, ascending; with its text where asked."""
        alive = self.chosen[row]
        if text:
            alive = alive | (self.ledger.visible[row] & (self.ledger.visual[row] == 0))
        return self.ledger.origin[row][alive]

    def note(self, row: int) -> dict:
        """What the reducer noted about the first image of a row; empty when it noted nothing."""
        for rows, notes in self.notes:
            index = (rows == row).nonzero()
            if len(index):
                return {key: value[index[0, 0]] if isinstance(value, Tensor) else value for key, value in notes.items()}
        return {}

    def _candidates(self) -> Tensor:
        return self.ledger.visual.bool() & self.ledger.visible
