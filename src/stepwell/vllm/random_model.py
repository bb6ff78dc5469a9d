"""A tiny model with random weights that vLLM loads: for trying out, and for tests that need no sense."""

from __future__ import annotations

from pathlib import Path

RANDOM = "random"
"""Its name where a GGUF could be named."""
CHAT_TEMPLATE = """\
{%- for message in messages %}{{ message.role }}: {{ message.content or "" }}
{% for call in message.tool_calls or [] %}call {{ call.function.name }} {{ call.function.arguments | tojson }}
{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""


def make_random(folder: Path) -> None:
    """A Llama of two layers on single bytes. The weights are wide: with the usual narrow ones the most likely
    token hardly depends on the prompt, and a wrong KV cache would not show."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(11)
    special = ["<pad>", "<s>", "</s>"]
    letters = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=65_536,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(0, 0.3)
    model.to(torch.float32).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
