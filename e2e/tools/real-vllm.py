"""What e2e/tools/real-vllm needs of Python.

real-vllm.py requirements WHEEL                 prints what a vLLM wheel requires but torch and its kin, of which other builds are installed
real-vllm.py model tiny|small OUT_DIR TEXT...   makes a Llama without weights: its shape, a tokenizer trained on the texts, a chat template
"""

import json
import pathlib
import sys
import zipfile

VOCABULARY = 4096

# tiny answers at once; a prompt of 1,000 tokens costs small some tenths of a second on one core, so that the cache is worth something.
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 32},
    "small": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8,
              "num_key_value_heads": 4, "head_dim": 64},
}


def requirements(wheel):
    from packaging.requirements import Requirement

    files = zipfile.ZipFile(wheel)
    metadata = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
    for line in files.read(metadata).decode().splitlines():
        if line.startswith("Requires-Dist: "):
            needed = Requirement(line.removeprefix("Requires-Dist: "))
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            if applies and not needed.name.startswith("torch"):
                needed.marker = None
                print(needed)


def model(shape, out, texts):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    out.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "model_max_length": 4096,
        "chat_template": "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
                         "{% if add_generation_prompt %}assistant: {% endif %}",
    }))
    (out / "config.json").write_text(json.dumps(SHAPES[shape] | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "float32",
        "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": True, "hidden_act": "silu",
    }))


def main(arguments):
    match arguments:
        case ["requirements", wheel]:
            requirements(wheel)
        case ["model", shape, out, *texts] if shape in SHAPES and texts:
            model(shape, pathlib.Path(out), texts)
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
