"""What LLaMA-Factory's own template code renders, as hashes: model/src/template/llamafactory.json.

pip install --no-deps llamafactory==0.9.5, then run this with that Python. Only its template module is used,
with a tokenizer whose ids are characters, so nothing else of it has to be there.
"""

import importlib
import json
import pathlib
import sys
import types
from enum import Enum


def load():
    root = next(p for p in map(pathlib.Path, sys.path) if (p / "llamafactory").is_dir()) / "llamafactory"

    def module(name, path=None, **attributes):
        made = types.ModuleType(name)
        made.__dict__.update(attributes)
        if path:
            made.__path__ = [str(path)]
        sys.modules[name] = made
        return made

    class Silent:
        def __getattr__(self, _):
            return lambda *a, **k: None

    class Role(str, Enum):
        USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
        FUNCTION, OBSERVATION = "function", "observation"

    module("llamafactory", root)
    module("llamafactory.data", root / "data")
    logging = module("llamafactory.extras.logging", get_logger=lambda name: Silent())
    module("llamafactory.extras", root / "extras", logging=logging)
    module("llamafactory.data.data_utils", Role=Role, SLOTS=list)
    module("llamafactory.data.mm_plugin", get_mm_plugin=lambda name=None, **k: None)
    return importlib.import_module("llamafactory.data.template")


class Characters:
    """Ids are characters; special tokens are written out."""

    bos_token, eos_token = "<s>", "</s>"
    bos_token_id, eos_token_id = ["<s>"], ["</s>"]

    def encode(self, text, add_special_tokens=False):
        return [text]

    def convert_tokens_to_ids(self, token):
        return token


def text(ids):
    return "".join(i if isinstance(i, str) else i[0] for i in ids)


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def main():
    template = load()
    plain = [("user", "U1"), ("assistant", "A1"), ("user", "U2"), ("assistant", "A2")]
    out = {}
    for name, entry in sorted(template.TEMPLATES.items()):
        open_, close = entry.thought_words
        thinking = [(r, c if r == "user" else f"{open_}T{close}{c}") for r, c in plain]
        eos = entry.stop_words[0] if entry.replace_eos else "</s>"
        tokenizer = Characters()
        tokenizer.eos_token, tokenizer.eos_token_id = eos, [eos]
        cases = [(plain[:2], None, True, False), (plain, "S", True, False)]
        if isinstance(entry, template.ReasoningTemplate):
            for enabled in (True, False, None):
                for discard in (False, True):
                    cases += [(plain, "S", enabled, discard), (thinking, "S", enabled, discard)]
        hashes = []
        for messages, system, enabled, discard in cases:
            entry.enable_thinking = enabled
            messages = [{"role": r, "content": c} for r, c in messages]
            if isinstance(entry, template.ReasoningTemplate):
                pairs = entry.encode_multiturn(tokenizer, messages, system, None, discard)
            else:
                pairs = entry.encode_multiturn(tokenizer, messages, system, None)
            hashes.append(fnv("".join(f"{text(s)}⟦{text(t)}⟧" for s, t in pairs)))
        out[name] = hashes
    path = pathlib.Path(__file__).parents[2] / "model/src/template/llamafactory.json"
    rows = ",\n".join(f" {json.dumps(n)}: {json.dumps(h)}" for n, h in out.items() if n in KNOWN or not KNOWN)
    path.write_text("{\n" + rows + "\n}\n")


KNOWN = set(sys.argv[1:])

if __name__ == "__main__":
    main()
