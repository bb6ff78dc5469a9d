"""What a tiny model of each architecture looks like: the settings that llama.cpp reads from its header.

One header answers what most architectures ask for, because llama.cpp ignores what it does not know. Where
an architecture needs other sizes or settings, they stand in the tables below. Names of settings and the
relations between them follow llama.cpp's loaders (src/models, src/llama-model.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepwell.bench.zoo import words


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LAYERS_WITHOUT_ATTENTION = frozenset(
    _names(
        "plamo2 jamba nemotron_h nemotron_h_moe granitehybrid lfm2 lfm2moe kimi-linear bailingmoe3 "
        "kimi-k3 glm5-next"
    )
)
"""Hybrids that say layer by layer which of them have attention."""
LATENT = frozenset(
    _names("deepseek2 deepseek32 glm-dsa dots3note kimi-linear bailingmoe3 kimi-k3 glm5-next mistral4 hy_v4")
)
"""Multi-head latent attention."""
_ONE_LATENT_HEAD = frozenset({"deepseek2", "mistral4", "deepseek32", "glm-dsa"})
_DELTA_NET = frozenset({"qwen3next", "qwen35", "qwen35moe", "qwen4exp"})
_NARROW = frozenset(
    _names(
        "falcon-h1 mamba mamba2 jamba plamo2 granitehybrid rwkv7 arwkv7 t5 bert minimax-01 lfm2moe "
        "qwen3next qwen35moe qwen4exp"
    )
)
_WINDOW_BY_LAYER = frozenset(
    _names("cohere2moe mimo2 step35 spark2_5 muse-glimmer granite_swa dots3note maple")
)
_EMBEDS = frozenset({"llama-embed", "gemma-embedding"})
_ALIBI = frozenset({"mpt", "bloom", "refact", "baichuan", "jina-bert-v2", "jais"})
_GROUPED = frozenset(
    _names(
        "llama qwen2 qwen3moe gpt-oss qwen35 qwen3next afmoe muse-glimmer phi3 glm4 glm4moe granite "
        "granitemoe mistral3 smollm3 exaone4 olmo2 cohere2 minimax-m2 seed_oss ernie4_5 hunyuan-dense "
        "qwen2moe qwen35moe"
    )
)
"""Two query heads share one of keys and values; elsewhere each has its own."""
EXPERTS = _names(
    "llama4 grok qwen2moe qwen3moe qwen3next qwen3vlmoe qwen35moe qwen4exp phimoe maple cohere2moe "
    "dbrx olmoe arctic deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 glm4moe glm-dsa "
    "exaone-moe bailingmoe bailingmoe2 bailingmoe3 dots1 dots3note afmoe laguna ernie4_5-moe "
    "hunyuan-moe hy_v3 hy_v4 gpt-oss lfm2moe smallthinker llada-moe grovemoe minimax-01 minimax-m2 "
    "minimax-m3 rnd1 mistral4 mimo2 step35 kimi-linear kimi-k3 glm5-next mellum"
)
"""Made with experts; llama.cpp refuses most of these without."""
DENSE = _names(
    "llama deci falcon gpt2 gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert "
    "nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert bloom stablelm qwen qwen2 qwen2vl "
    "qwen3 qwen3vl qwen35 phi2 phi3 plamo plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 "
    "gemma gemma2 gemma3 gemma3n gemma4 gemma-embedding starcoder2 mamba mamba2 jamba falcon-h1 "
    "xverse command-r cohere2 olmo olmo2 muse-glimmer openelm chatglm glm4 bitnet t5 t5encoder jais "
    "jais2 nemotron nemotron_h nemotron_h_moe exaone exaone4 rwkv6 rwkv7 arwkv7 granite "
    "granitemoe granitehybrid granite_swa chameleon arcee ernie4_5 hunyuan-dense hunyuan_vl "
    "smollm3 lfm2 dream llada seed_oss apertus hrm_text cogvlm pangu-embedded mistral3 paddleocr "
    "spark2_5 llama-embed maincoder talkie nanbeige"
)
ARCHITECTURES = tuple(sorted((*DENSE, *EXPERTS)))
"""All that llama.cpp makes a tiny model of from these headers."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes that several settings are derived from."""

    width: int = 256
    heads: int = 4
    kv_heads: int = 0
    """0: as many as ``heads``."""
    ff: int = 384
    layers: int = 2
    window: int = 128
    experts: bool = False
    context: int = 4096
    pooling: int | None = None
    """``enum llama_pooling_type``: 1 mean, 2 first, 3 last token, 4 rank. None: as usual there."""

    @property
    def head(self) -> int:
        return self.width // self.heads


_SHAPES = {
    "gemma3": ModelShape(128, 2, 1, 192, 6),
    "gemma-embedding": ModelShape(128, 2, 2, 192, 6),
    "llama4": ModelShape(layers=4),
    "gemma4": ModelShape(128, 2, 1, 192, 5),
    "gemma3n": ModelShape(64, 1, 1, 96, 22),
    "deepseek4": ModelShape(128, 2, 1, 128, 4),
    "step35": ModelShape(160, 2),
    "laguna": ModelShape(160, 2),
    "nemotron_h": ModelShape(layers=3),
    "nemotron_h_moe": ModelShape(layers=3),
    "minimax-m3": ModelShape(ff=64),
    "hrm_text": ModelShape(layers=6),
    "qwen3": ModelShape(kv_heads=1),
}


def shape_of(architecture: str) -> ModelShape:
    """The sizes an architecture is made with."""
    shape = _SHAPES.get(architecture)
    if shape is None and architecture in LATENT:
        shape = ModelShape(128, 1, 1, 192)
    if shape is None:
        shape = ModelShape(128, ff=192) if architecture in _NARROW else ModelShape()
        shape = replace(shape, kv_heads=shape.heads // 2 if architecture in _GROUPED else 0)
    return replace(shape, experts=architecture in EXPERTS)


def settings(architecture: str, shape: ModelShape) -> dict[str, object]:
    """A whole header."""
    own = _common(architecture, shape) | _sizes_of_states(architecture, shape) | _experts(architecture, shape)
    own |= _own(architecture, shape)
    made = {f"{architecture}.{key}": value for key, value in own.items() if value is not None}
    xielu = {"xielu.alpha_n": 1.0, "xielu.alpha_p": 1.0, "xielu.beta": 1.0, "xielu.eps": 1e-7}
    return {
        "general.architecture": architecture,
        **made,
        **xielu,
        **words.settings(_vocabulary(architecture)),
    }


def _vocabulary(architecture: str) -> int:
    """Chameleon never says its tokens 4 to 8,195: they stand for images."""
    return 8_256 if architecture == "chameleon" else words.SIZE


def _common(architecture: str, shape: ModelShape) -> dict[str, object]:
    return {
        "vocab_size": _vocabulary(architecture),
        "context_length": 512 if "bert" in architecture else shape.context,
        "embedding_length": shape.width,
        "features_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.ff,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads or shape.heads,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5,
        "attention.group_norm_groups": 8,
        "attention.clamp_kqv": 1.0,
        "attention.causal": True,
        "attention.scale": shape.head**-0.5,
        "attention.relative_buckets_count": 8,
        "attention.q_lora_rank": 64 if architecture in {"deepseek4", "minimax-m3"} else 128,
        "attention.kv_lora_rank": 512,
        "attention.sliding_window": shape.window,
        "attention.sliding_window_pattern": (
            [layer % 2 for layer in range(shape.layers)] if architecture in _WINDOW_BY_LAYER else 2
        ),
        "attention.indexer.head_count": shape.heads if architecture == "minimax-m3" else 4,
        "attention.indexer.key_length": shape.head if architecture == "qwen4exp" else 128,
        # More than there are tokens: which of them are chosen depends on rounding, and ties go by place.
        "attention.indexer.top_k": 1 << 17,
        "attention.indexer.block_size": 4,
        "attention.indexer.kpool": 4,
        "attention.indexer.kpool_select_tail": True,
        "attention.indexer.local_blocks": 1,
        "attention.max_alibi_bias": 8.0 if architecture in _ALIBI else None,
        "rope.dimension_sections": [shape.head // 8] * 4,
        "rope.freq_base": 10000.0,
        "rope.freq_base_swa": 10000.0,
        "use_parallel_residual": False,
        "leading_dense_block_count": 1,
        "full_attention_interval": 2,
        "logit_scale": 1.0,
        "residual_scale": 1.0,
        "embedding_scale": 1.0,
        "attn_res.block_size": 12,
        "activation.situ_beta": 4.0,
        "activation.situ_linear_beta": 25.0,
        "decoder_start_token_id": 0,
        "pooling_type": _pooling(architecture, shape),
    }


def _pooling(architecture: str, shape: ModelShape) -> int | None:
    usual = 1 if "bert" in architecture or architecture in _EMBEDS else None
    return usual if shape.pooling is None else shape.pooling


def _sizes_of_states(architecture: str, shape: ModelShape) -> dict[str, object]:
    """Of running states: state-space models, RWKV, delta nets, short convolutions."""
    ranks = ("decay", "iclr", "value_residual_mix", "gate")
    return {
        "time_mix_extra_dim": 32,
        "time_decay_extra_dim": 32,
        "token_shift_count": 2,
        "rescale_every_n_layers": 6 if architecture == "rwkv6" else None,
        "wkv.head_size": 64,
        **{f"attention.{rank}_lora_rank": 32 for rank in ranks},
        "ssm.conv_kernel": 4,
        "ssm.state_size": 64,
        "ssm.inner_size": 64 * shape.heads if architecture in _DELTA_NET else 2 * shape.width,
        "ssm.time_step_rank": shape.heads,
        "ssm.group_count": 0 if architecture == "plamo2" else 2,
        "kda.head_dim": 128,
        "kda.safe_gate": True if architecture != "bailingmoe3" else None,
        "kda.gate_lower_bound": -5.0,
        "shortconv.l_cache": 3,
    }


def _experts(architecture: str, shape: ModelShape) -> dict[str, object]:
    if not shape.experts:
        return {}
    return {
        "expert_count": 4,
        "expert_used_count": 2,
        "expert_shared_count": 1,
        "expert_feed_forward_length": 64 if architecture == "deepseek4" else 128,
        "expert_shared_feed_forward_length": 64,
        "expert_latent_length": 128,
        "moe_latent_size": 128,
        "interleave_moe_layer_step": 2,
        "expert_gating_func": 4 if architecture == "deepseek4" else 2,
        "expert_group_scale": 1.0,
        "experts_per_group": 1,
        "moe_every_n_layers": 1,
    }


def _own(architecture: str, shape: ModelShape) -> dict[str, object]:
    """What only some architectures have, or have otherwise."""
    found: dict[str, object] = {}
    if architecture in LAYERS_WITHOUT_ATTENTION:
        heads = [0 if layer == 1 else shape.heads for layer in range(shape.layers)]
        found["attention.head_count_kv"] = heads
        if architecture != "glm5-next":
            found["attention.head_count"] = heads
    if architecture in LATENT:
        found |= _latent(architecture)
    for names, made in _TABLE.items():
        if architecture in names.split():
            found |= made
    head = shape.head
    if architecture == "gemma4":
        found |= dict.fromkeys(
            ("attention.key_length", "attention.value_length", "attention.key_length_swa",
             "attention.value_length_swa", "rope.dimension_count", "rope.dimension_count_swa"), head,
        )  # fmt: skip
    if architecture == "deepseek4":
        found |= {
            "attention.key_length": head,
            "attention.value_length": head,
            "rope.dimension_count": head // 2,
        }
    if architecture in {"nemotron_h", "nemotron_h_moe"}:
        found["feed_forward_length"] = [0 if layer <= 1 else shape.ff for layer in range(shape.layers)]
    if architecture in {"dots3note", "hy_v4"}:
        found["attention.indexer.types"] = [1 - layer % 2 for layer in range(shape.layers)]
    if architecture in {"qwen4exp", "glm5-next"}:
        found["attention.compress_ratios"] = [4] * shape.layers
    return found


def _latent(architecture: str) -> dict[str, object]:
    no_rope = architecture == "glm5-next"
    found: dict[str, object] = {
        "attention.key_length": 512 if no_rope else 576,
        "attention.value_length": 512,
        "attention.key_length_mla": 192,
        "attention.value_length_mla": 128,
        "rope.dimension_count": 0 if no_rope else 64,
    }
    if architecture in _ONE_LATENT_HEAD:
        found["attention.head_count_kv"] = 1
    return found


_HYPER = {
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 2,
    "hyper_connection.epsilon": 1e-6,
}
_SCALED_EXPERTS = {"swiglu_clamp_exp": 10.0, "expert_weights_scale": 1.0, "expert_weights_norm": True}
_TABLE: dict[str, dict[str, object]] = {
    "lfm2 lfm2moe": {"attention.sliding_window": None},
    "arwkv7": {"token_shift_count": 1},
    "minimax-m3": {"rope.dimension_count": 64},
    "maple": {"swiglu_clamp_exp": 7.0},
    "hrm_text": {"hrm.layers_per_stack": 1, "hrm.h_cycles": 2, "hrm.l_cycles": 2},
    "bailingmoe3": {
        "rope.dimension_sections": [8, 12, 12, 0],
        "swiglu_clamp_exp": [0.0, 4.0],
        "swiglu_clamp_shexp": [0.0, 5.0],
    },
    "gemma4": {
        "embedding_length_per_layer_input": 64,
        "attention.shared_kv_layers": 0,
        "attention.sliding_window_pattern": [True, True, True, True, False],
    },
    "dots3note": {
        "attention.kv_lora_rank_swa": 512,
        "attention.key_length_swa": 576,
        "attention.value_length_swa": 512,
        "attention.key_length_mla_swa": 192,
        "attention.value_length_mla_swa": 128,
    },
    "deepseek4": {
        **_HYPER,
        **_SCALED_EXPERTS,
        "attention.output_group_count": 2,
        "attention.output_lora_rank": 32,
        "attention.compress_ratios": [0, 0, 4, 128],
        "attention.compress_rope_freq_base": 160000.0,
        "hash_layer_count": 0,
    },
    "hy_v4": {**_HYPER, **_SCALED_EXPERTS, "hyper_connection.magnitude": 2.0},
    "qwen4exp glm5-next": {**_HYPER, "hyper_connection.low_rank": 8},
}
