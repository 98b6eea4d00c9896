"""The keys of choosing problems by how often they are solved; what they do is in `pass_rate.py`. Without torch."""

from __future__ import annotations

from pydantic import Field, model_validator

from polythink.run.config import Config


class PassRateConfig(Config):
    """Which problems a stage asks, by how often the model that it begins with solves them."""

    samples: int = Field(8, ge=2)
    """Responses per problem that are drawn before the first step."""
    at_least: float = Field(0.1, ge=0, le=1)
    """The share of them that is right, at least: problems that are never solved teach nothing."""
    at_most: float = Field(0.9, ge=0, le=1)
    """The share of them that is right, at most: nor do those that are always solved."""
    problems: int | None = Field(None, ge=1)
    """How many problems are measured, chosen at random; none: all."""

    @model_validator(mode="after")
    def _some_rate_between(self) -> PassRateConfig:
        if not any(self.at_least <= right / self.samples <= self.at_most for right in range(self.samples + 1)):
            raise ValueError(
                f"no number of {self.samples} samples is a share from at_least: {self.at_least:g} to at_most: "
                f"{self.at_most:g}; take more samples or a wider range"
            )
        return self
