"""The one way in which a part becomes a value of the configuration.

A stateless part (a loss, the matcher, the criterion) is a frozen pydantic model with a
`__call__`: the value in the YAML file and the callable are the same object.
"""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen record of options; unknown fields are refused, numbers must be finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
