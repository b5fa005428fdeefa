"""Shapes of a model: the JSON under the metadata key `config` of a weights file."""

import dataclasses
import json

from . import Failure

# Highest limits that the server accepts.
LIMITS = {
    "max_sequence_len": (1, 1 << 17),
    "max_output_len": (1, 1 << 17),
    "embedding_dim": (1, 4096),
    "item_embedding_dim": (1, 4096),
    "action_embedding_dim": (0, 4096),
    "num_actions": (0, 1 << 16),
    "num_blocks": (1, 64),
    "num_heads": (1, 64),
    "attention_dim": (1, 256),
    "linear_dim": (1, 256),
    "num_items": (0, 1 << 27),
    "num_time_buckets": (1, 1024),
    "num_tasks": (0, 64),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fields as the server names them."""

    max_sequence_len: int
    max_output_len: int
    embedding_dim: int
    item_embedding_dim: int
    action_embedding_dim: int
    num_actions: int
    num_blocks: int
    num_heads: int
    attention_dim: int
    linear_dim: int
    num_items: int
    num_time_buckets: int = 128
    num_tasks: int = 0
    normalization: str = "rel_bias"
    linear_activation: str = "silu"
    concat_ua: bool = False
    epsilon: float = 1e-6

    def __post_init__(self):
        for field, (least, most) in LIMITS.items():
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise Failure(f"config field `{field}`: {value!r} must be a whole number of {least} to {most}")
        if self.embedding_dim != self.item_embedding_dim + self.action_embedding_dim:
            raise Failure(
                f"config field `embedding_dim`: {self.embedding_dim} is not item_embedding_dim "
                f"{self.item_embedding_dim} + action_embedding_dim {self.action_embedding_dim}"
            )
        if self.action_embedding_dim > 0 and self.num_actions == 0:
            raise Failure("config field `num_actions`: must be above 0 where there is an action part")
        if (self.normalization, self.linear_activation, self.concat_ua) != ("rel_bias", "silu", False):
            raise Failure("config: only normalization rel_bias, linear_activation silu, concat_ua false are supported")
        if not 0 < self.epsilon <= 1e-2:
            raise Failure(f"config field `epsilon`: {self.epsilon} must be above 0 and at most 0.01")

    @property
    def rows(self):
        """N: rows of the position table, divisor of the attention sum."""
        return self.max_sequence_len + self.max_output_len

    @property
    def k_width(self):
        """Width of k (and q) over all heads."""
        return self.num_heads * self.attention_dim

    @property
    def v_width(self):
        """Width of v (and u) over all heads."""
        return self.num_heads * self.linear_dim

    def to_json(self):
        """The JSON text of the metadata."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text, where):
        """Reads the JSON text of the metadata of the file `where`."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise Failure(f"{where}: metadata key `config`: {error}") from error
