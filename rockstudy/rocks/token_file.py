"""A set of token types as a JSON file that other programs read.

The file has the tokens in the order of their rank, each with its id, the tokenizer's own spelling,
its text, its bytes and its score, and beside them what the set was chosen with and the hash of the
vocabulary. `TokenFile.model_json_schema()` is the schema; the fields below document it. A file of
another version, or one that is read with another tokenizer, is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rockstudy.errors import StudyError, shortened
from rockstudy.models.token_bytes import token_bytes, token_names, vocabulary_hash
from rockstudy.models.token_texts import token_texts
from rockstudy.rocks.detection import Detection
from rockstudy.rocks.token_set import TokenSet
from rockstudy.store import files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT, VERSION = "rockstudy-token-set", 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Token(_Part):
    """A token type of the set."""

    id: int = Field(ge=0, description="Id in the vocabulary.")
    token: str | None = Field(description="The tokenizer's own spelling; null past its end.")
    text: str = Field(description="What it adds to a running text, with its leading space.")
    bytes: str | None = Field(
        pattern="^([0-9a-f]{2})*$", description="Its bytes in hex; null where they are not known."
    )
    rank: int = Field(ge=1, description="Place by the selector's score; 1 is the first.")
    score: float = Field(description="The selector's score; nats for the paper's two.")
    count: int = Field(ge=1, description="Occurrences in the measured completions.")


class Vocabulary(_Part):
    """The tokenizer that gives the ids a meaning."""

    name: str = Field(description="Name of the model that the tokenizer came with.")
    hash: str = Field(description="`models.token_bytes.vocabulary_hash`.")


class Window(_Part):
    """What a window around an occurrence is (`selective.windows`)."""

    threshold: float = Field(ge=0, description="Least reverse KL inside a window, nats.")
    width: int = Field(ge=1, description="Most positions on each side of an occurrence.")


class Origin(_Part):
    """Where the set comes from."""

    id: str = Field(description="Name of the run.")
    preset: str = Field(description="Its preset.")
    rockstudy: str = Field(description="Version of the package that wrote the file.")


class TokenFile(_Part):
    """A set of token types with all that another program needs to use it."""

    format: Literal["rockstudy-token-set"] = FORMAT
    version: Literal[1] = VERSION
    name: str = Field(description="Name of the set, such as rocks.")
    selector: str = Field(description="Name of the score that ranks the types.")
    k: int = Field(ge=1, description="Number of types.")
    parameters: dict[str, Any] = Field(
        description="Settings of the detection; tau_pre_nats and tau_post_nats are its thresholds."
    )
    window: Window
    tokenizer: Vocabulary
    run: Origin | None = Field(description="Where the set comes from; null for no run.")
    tokens: tuple[Token, ...] = Field(min_length=1, description="The types by rank.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [one.id for one in self.tokens]
        if len(set(ids)) < len(ids):
            raise ValueError("tokens must have distinct ids")
        if len(ids) != self.k:
            raise ValueError(f"tokens must be k = {self.k} types; got {len(ids)}")
        return self

    @classmethod
    def of(
        cls,
        found: Detection,
        tokenizer: PreTrainedTokenizerBase,
        *,
        threshold: float | None = None,
        model: str = "",
        run: Origin | None = None,
    ) -> Self:
        """Make a file of the rocks of a detection.

        `threshold` is the least reverse KL after distillation in a window, by default the rocks'
        own; `model` is the name of the model that the tokenizer came with.

        `StudyError`: rocks by another loss than the reverse KL, without a threshold.
        """
        settings = found.settings
        if threshold is None and settings.loss != "rkl":
            raise StudyError(f"threshold: must be given for rocks by {settings.loss}; got none")
        ranked = found.types.nsmallest(found.k, "rank")
        ids = ranked.token_id.tolist()
        columns = zip(
            ids,
            token_names(tokenizer, ids),
            token_texts(tokenizer, ids),
            [None if one is None else one.hex() for one in token_bytes(tokenizer, ids)],
            ranked["rank"].tolist(),
            ranked[settings.selector].tolist(),
            ranked["count"].tolist(),
            strict=True,
        )
        given = settings.model_dump(mode="json", exclude={"selector"})
        return cls(
            name=found.rocks().name,
            selector=settings.selector,
            k=found.k,
            parameters=given | {"tau_pre_nats": found.tau_pre, "tau_post_nats": found.tau_post},
            window=Window(
                threshold=found.tau_post if threshold is None else threshold, width=settings.window
            ),
            tokenizer=Vocabulary(name=model, hash=vocabulary_hash(tokenizer)),
            run=run,
            tokens=tuple(
                Token(**dict(zip(Token.model_fields, row, strict=True))) for row in columns
            ),
        )

    @property
    def types(self) -> TokenSet:
        """The set itself."""
        return TokenSet.of(self.name, (one.id for one in self.tokens))

    def write(self, file: Path) -> None:
        """Write the file whole or not at all."""
        with files.writing(file):
            files.write_json(file, self.model_dump(mode="json"))

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer in which the ids mean something else.

        `StudyError`: an id of the set with another spelling, or another vocabulary. Tokens that
        were added to the same vocabulary do no harm.
        """
        with_name = f" ({self.tokenizer.name})" if self.tokenizer.name else ""
        must = f"tokenizer: must be the one that the {self.name} were found with{with_name}"
        given = token_names(tokenizer, [one.id for one in self.tokens])
        for one, name in zip(self.tokens, given, strict=True):
            if one.token != name:
                raise StudyError(
                    f"{must}, in which id {one.id} is "
                    f"{shortened(one.token)}; got one in which it is {shortened(name)}"
                )
        if (found := vocabulary_hash(tokenizer)) != self.tokenizer.hash:
            raise StudyError(
                f"{must}, whose vocabulary has the hash {self.tokenizer.hash}; got one with {found}"
            )


def read(file: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> TokenFile:
    """Read a set that `TokenFile.write`, or ``rockstudy export RUN rocks``, wrote.

    With a `tokenizer`, check that the ids mean the same in it (`TokenFile.check`).

    `StudyError`: no such file, a file of another format or version, a field that is missing or not
    legal, another tokenizer.
    """
    file = Path(file)
    must = f"{file}: must be a set of tokens as `rockstudy export RUN rocks` writes it"
    try:
        value = files.read_json(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no JSON object"
        raise StudyError(f"{must}; {reason}") from None
    for name, legal in (("format", FORMAT), ("version", VERSION)):
        if value.get(name) != legal:
            raise StudyError(f"{must}; {name} must be {legal!r}, got {shortened(value.get(name))}")
    try:
        made = TokenFile.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StudyError(f"{must}; {where + ': ' * bool(where)}{first['msg']}") from None
    if tokenizer is not None:
        made.check(tokenizer)
    return made
