"""What differs between the versions of Ollama that the stand-in can play.

Seen in the transcripts for 0.12.11 and 0.32.15; from 0.34.1 on read in Ollama's release notes and
source, so the wording of some refusals there is a guess.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Behaviour:
    """The traits that follow from one version number."""

    version: str
    checks_tensor_bounds: bool
    rewrites_base: bool
    merges_shards: bool
    takes_adapters: bool
    converts: bool
    quantizable: tuple[str, ...]
    refuses_empty_digest: bool
    shows_chat_template: bool
    lists_capabilities: bool
    parent_is_path: bool
    family_per_layer: bool
    resolves_shown_name: bool

    @classmethod
    def of(cls, version: str) -> "Behaviour":
        """Derive the traits of `version`, which is three numbers with dots between them."""
        number = tuple(int(part) for part in version.partition("-")[0].split("."))
        llama_server = number >= (0, 30, 0)
        merged_only = number >= (0, 34, 1)
        return cls(
            version=version,
            checks_tensor_bounds=llama_server,
            rewrites_base=llama_server and not merged_only,
            merges_shards=llama_server,
            takes_adapters=not merged_only,
            converts=not merged_only,
            quantizable=("F16", "BF16", "F32") if llama_server else ("F16", "F32"),
            refuses_empty_digest=llama_server,
            shows_chat_template=llama_server,
            lists_capabilities=llama_server,
            parent_is_path=not llama_server,
            family_per_layer=not llama_server,
            resolves_shown_name=llama_server,
        )
