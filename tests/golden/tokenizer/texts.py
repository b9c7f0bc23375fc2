"""Strings that tell tokenizers apart: fixed ones for every trap we know, and random ones from a seed."""
import random

TRAINING = [
    "The quick brown fox jumps over the lazy dog. It didn't stop; it couldn't. We'll see what they've done, I'm sure they'd say.",
    "Training a small adapter on a large frozen model needs little memory: the base is quantized to 4 bits, the rest is kept in 16.",
    "def forward(self, x):\n    y = self.norm(x)\n    return x + self.mlp(y)  # residual\n\nfor i in range(10):\n\tprint(i, i ** 2)\n",
    "In 1984 there were 1,234,567 of them; by 2024 only 89 remained (0.0072%).  Two  spaces,   three.\r\nA new line.",
    "Le café est fermé aujourd'hui, mais l'hôtel à côté sert un thé très agréable. Où êtes-vous né ?",
    "Die Größe der Straße überraschte alle; fünf Übungen später wußte man mehr.",
    "Съешь ещё этих мягких французских булок, да выпей же чаю. Это было вчера.",
    "日本語の文章を分割するのは簡単ではありません。東京は大きな都市です。中文也没有空格。",
    "한국어는 띄어쓰기가 있습니다. 오늘은 날씨가 좋네요.",
    "مرحبا بالعالم، كيف حالك اليوم؟ हिन्दी में लिखा हुआ एक वाक्य।",
    "{\"name\": \"value\", \"list\": [1, 2, 3], \"nested\": {\"a\": null}}",
    "HELLO WORLD! This Is A Title. the the the and and of of to to in in is is that that it it was was for for",
]

FIXED = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "a", " a", "a ", "  a", "a  b", "a   b    c", "\t\ta", "a\tb", "a \n b", "a\n\n\nb",
    "Hello world", "Hello, world!", "  two  spaces", "trailing  ", "\n\nhello\r\n x", "  \n  \n a", " \t \n \r\n ", "a\u00a0b", "\u00a0\u00a0a", "a\u2003b\u3000c",
    "\u3000\u3000全角", "x\u0085y", "x\u180ey", "x\u200by\u200cz\u200d", "\ufeffbom", "a\x00b", "\x01\x02\x7f",
    "I'M don't I'll", "it's IT'S it'S we'Ve they'RE I'D you'd o'clock 'tis 's 't 're", "x'\u017f x'\u017ft '\u017f", "don\u2019t", "'sat 'LLama 'vex 'r 'v 'l ' ''s",
    "1234567 89", "1 12 123 1234 12345 123456 1234567890", "3.14159e-10", "1,000,000", "a1b22c333d4444", "½²Ⅷ٣", "٠١٢٣٤٥٦٧٨٩ ०१२३ ⅠⅡⅢ ①②③ ௧௨", "x² + y³ = z⁴", "1 2 3", "0x1F600",
    "naïve café e\u0301", "e\u0301\u0323 \u0323\u0301e", "A\u030a \u212b \u00c5", "\u1e9b\u0323 \u01c4 \ufb01 \ufb00", "\u1112\u1161\u11ab\u1100\u1173\u11af 한글", "\u0344 \u0958 \u2126 \u212a", "Zalgo: Z\u0351\u036b\u0343a\u0329l\u0310g\u0348o\u0322",
    "\u0301start with a mark", "\u094dक\u094dष", "नमस्ते दुनिया", "สวัสดีชาวโลก", "ကမ္ဘာ", "שלום עולם", "مرحبا بالعالم", "Привет, мир! Ёлка", "Γειά σου Κόσμε ΣΑΣ", "İstanbul ıŞIK", "ẞß ŉ ǰ",
    "日本語テスト。中文测试，好的！", "ｶﾞｷﾞ ﾊﾟ １２３ ＡＢＣ", "ㄱㅏ ㅎㅏㄴ", "안녕하세요 세계", "👍", "👨‍👩‍👧‍👦 family 🏳️‍🌈", "🇩🇪🇫🇷", "a👍b 👍🏽", "😀😁😂🤣", "\U0001d4d0\U0001d4d1 \U0001f150\U0001f170", "\U00020000\U0002a6df", "\U0010ffff\ue000",
    "!!!", "?!?!", "...", "a.b.c", "foo(bar)[baz]{qux}", "x==y && z||w", "// comment\n/* more */", "#include <stdio.h>\nint main() {\n\treturn 0;\n}\n", "    indented\n        more", "-----\n=====", "\"quoted\" 'single' `back`", "$100 €50 £20 ¥", "a_b __init__ snake_case camelCase PascalCase", "C:\\path\\file", "https://example.com/a?b=c&d=%20e#f", "user@example.org", "<html><b>x</b></html>", "~^|<>=+`$", "…—–‘’“”«»", "¿Qué? ¡Sí!", "© ® ™ ° ±",
    "<|im_start|>user\nHi<|im_end|>\n", "<s>[INST] Hi [/INST]Hello!</s>", "Hi</s>there", "</s></s>", " </s> ", "<unk>", "<0x41>", "<0xE2>", "<|endoftext|>", "a<|endoftext|>b", "  <|endoftext|>  ", "<|endoftext", "<<|endoftext|>>", "<think>\n\n</think>\n\n4", "<|begin_of_text|><|eot_id|>", "[MASK]x [MASK] _[MASK]_ x[MASK]", "  [MASK]  [SEP]  ", "a[SEP]\n\n b", "WORD wordWORD WORD2 WORD", "Café TOKEN café token CAFE\u0301 TOKEN", "\u2581already\u2581marked", "\u2581", "\u2581\u2581 \u2581a", "a\u2581b",
    "The quick brown fox jumps over the lazy dog.", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababababababababababababababababababababababababababababababababababababababababababab", "the" * 60, " " * 100, "\n" * 70, " \n" * 40, "!" * 90, "1" * 100, "日" * 80, "\u0301" * 40, "é" * 70, "a b " * 50, "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
]

_RANGES = [(0x20, 0x7E)] * 6 + [(0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF), (0xE00, 0x11FF), (0x1E00, 0x20CF), (0x20D0, 0x2BFF),
    (0x3000, 0x30FF), (0x3100, 0x31FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFB00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF)]
_ATOMS = [" ", "  ", "\n", "\r\n", "\t", " \n", "'s", "'S", "'ll", "'RE", "'\u017f", "1", "22", "333", "4444", ".", ", ", "!?", "_", "-", "\u0301", "\u0323", "\u200d", "\u00a0", "\u2581", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "</s>", "<s>", "<unk>", "<think>", "[MASK]", "[SEP]", "WORD", "TOKEN", "<0x0A>", "👨‍👩‍👧", "é", "e\u0301", "가", "\u1100\u1161", "日本", "ß", "İ", "½", "٣"]


def random_text(rng):
    """One string of one of a few kinds: words, atoms, one block, any code points, or a mix."""
    kind = rng.randrange(5)
    words = " ".join(TRAINING).split(" ")
    parts = []
    for _ in range(rng.randrange(1, 25)):
        which = kind if kind < 4 else rng.randrange(4)
        if which == 0:
            parts.append(rng.choice(words) + rng.choice([" ", " ", " ", "", "\n", "  "]))
        elif which == 1:
            parts.append(rng.choice(_ATOMS))
        elif which == 2:
            low, high = rng.choice(_RANGES)
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 6))))
        else:
            code = rng.randrange(0x110000) if rng.random() < 0.2 else rng.randrange(0x3000)
            parts.append(chr(code) if not 0xD800 <= code < 0xE000 else "x")
    return "".join(parts)


def random_texts(count, seed):
    rng = random.Random(seed)
    return [random_text(rng) for _ in range(count)]
