#!/usr/bin/env python3
"""Writes the personal-data masking set: train.jsonl, validation.jsonl and test.jsonl beside this file.

    make_pii.py [FOLDER]        FOLDER: where to write, default this folder

Standard library only, and deterministic: the committed files are this program's output byte for byte (a test checks
it). A row is {"prompt", "completion"}: the prompt holds a short text, the completion is the same text with every piece
of personal data replaced by a tag, all else copied character by character.

Conventions
  [NAME]     a person's name as written: both names, only the first, or only the last. Titles stay: "Dr. [NAME]".
  [EMAIL]    an e-mail address.
  [PHONE]    a phone number, with its country code and brackets.
  [ADDRESS]  a postal address from street to post code and city, one tag. A city alone stays.
  [ACCOUNT]  a bank account number in the manner of an IBAN.
  [CARD]     a payment card number.
  Companies, cities, products, order and parcel codes, dates, times, prices, versions and web addresses stay.

How results are counted (engine/train/metrics/text_metrics.h): a row is exactly right if the answer equals the
completion but for blanks at both ends. For the masks both texts are cut into tokens (a tag, or a run of other
characters without blanks) and aligned by a longest common subsequence; of equally long ones, one that pairs most tags.
For each kind: a reference tag paired with an equal answer tag is a hit, an unpaired reference tag a miss, an unpaired
answer tag a false alarm. Recall = hits / (hits + misses), precision = hits / (hits + false alarms), F1 as usual.

Nothing here is real. Domains are reserved (RFC 2606), phone numbers come from the ranges kept for fiction (US 555-01xx,
and those of Ofcom, Bundesnetzagentur, ARCEP and PTS), account and card numbers fail their check digits.
Train, validation and test share no template, and only part of the names, cities, companies, streets and number styles.
"""

import json
import pathlib
import random
import re
import sys

import pii_words as words

SPLITS = {"train": 2000, "validation": 200, "test": 200}
QUARTERS = {"train": (0, 1), "validation": (1, 2), "test": (1, 3)}
NOTHING_SHARE = 0.12
PROMPT = "Mask the personal data:\n{}\n### Masked:\n"
MASKED = ("name", "first", "last", "email", "phone", "address", "account", "card")
FOLDER = pathlib.Path(__file__).resolve().parent


def share(pool, split):
    """The part of a pool that a split may use: test and train have one quarter of it in common."""
    return [word for i, word in enumerate(pool) if i % 4 in QUARTERS[split]]


def digits(rng, pattern):
    """Replaces every # of the pattern by a random digit and every @ by a random capital."""
    pattern = re.sub("#", lambda _: str(rng.randrange(10)), pattern)
    return re.sub("@", lambda _: rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ"), pattern)


def luhn_holds(number):
    """True if a card number's check digit is right."""
    total = 0
    for i, digit in enumerate(int(c) for c in reversed(number) if c.isdigit()):
        total += digit if i % 2 == 0 else digit * 2 - 9 * (digit > 4)
    return total % 10 == 0


def iban_holds(account):
    """True if an IBAN's check digits are right (ISO 13616: the rearranged number is 1 modulo 97)."""
    plain = account.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


class Filler:
    """Draws the values of one split's slots."""

    PHONES = [  # (styles of train, and of validation and test besides)
        "(312) 555-01##", "212-555-01##", "+1 415 555 01##", "020 7946 0###", "+44 7700 900###", "0113 496 0###",
        "01632 960###", "030 23125 ###", "+49 69 90009 ###", "01 99 00 ## ##", "+33 6 39 98 ## ##", "08-465 004 ##",
    ]
    PHONES_UNSEEN = ["+1 646-555-01##", "0161 496 0###"]
    ACCOUNTS = ["DE## #### #### #### #### ##", "NL## TEST #### #### ##", "BE## #### #### ####", "NO## #### #### ###",
                "DK## #### #### #### ##"]
    ACCOUNTS_UNSEEN = ["FI## #### #### #### ##"]
    CARDS = ["4### #### #### ####", "5### #### #### ####", "4###-####-####-####", "37## ###### #####", "5###############"]
    CARDS_UNSEEN = ["6011 #### #### ####"]
    ORDERS = ["ORD-#####", "#####-@", "INV-2025-0##", "@-####-@", "PO-#####", "@@####", "case ####-##"]
    TRACKING = ["1Z###@@###", "TRK-#####", "JD00######", "@@#####DE"]
    PRICES = ["${}", "€{}", "£{}", "{} kr", "{} EUR", "${}.50", "€{}.99", "£{}.##"]
    MONTHS = "January February March April May June July August September October November December".split()

    def __init__(self, split, rng):
        self.rng = rng
        self.unseen = split != "train"
        self.pool = {key: share(getattr(words, key), split) for key in dir(words) if key.isupper()}

    def pick(self, key):
        return self.rng.choice(self.pool[key])

    def style(self, kind):
        styles = getattr(self, kind)
        return self.rng.choice(styles + getattr(self, kind + "_UNSEEN") if self.unseen else styles)

    def first(self):
        return self.pick("FIRST")

    def last(self):
        return self.pick("LAST")

    def name(self):
        first = self.first()
        if self.rng.random() < 0.06:
            first += self.rng.choice([" " + self.rng.choice("ABCDEFGHJKLMR") + ".", "-" + self.first()])
        return f"{first} {self.last()}"

    def email(self):
        plain = re.compile("[a-z]+")
        draw = lambda word: "".join(plain.findall(word().lower())) or "user"
        first, last = draw(self.first), draw(self.last)
        local = self.rng.choice([f"{first}.{last}", f"{first[0]}.{last}", f"{first}_{last}",
                                 f"{last}{self.rng.randrange(10, 99)}", first, f"{first}{last[0]}"])
        company = self.pick("COMPANY").lower()
        domain = self.rng.choice(["example.com", "example.org", "example.net", "mail.example.com",
                                  f"{company}.example", f"{company}.test"])
        return f"{local}@{domain}"

    def phone(self):
        return digits(self.rng, self.style("PHONES"))

    def account(self):
        while iban_holds(account := digits(self.rng, self.style("ACCOUNTS"))):
            pass
        return account

    def card(self):
        while luhn_holds(card := digits(self.rng, self.style("CARDS"))):
            pass
        return card

    def address(self):
        rng, number = self.rng, self.rng.randrange(1, 190)
        land = rng.choice(["GB", "US", "DE", "FR", "ES", "NL"])
        city, street = self.pick(f"CITY_{land}"), self.pick(f"STREET_{'GB' if land == 'US' else land}")
        end = rng.choice(getattr(words, f"STREET_{'GB' if land == 'US' else land}_END", [""]))
        return digits(rng, {
            "GB": f"{number} {street} {end}, {city} {city[0]}S## #@@",
            "US": f"{number} {street} {end}, {city}, {rng.choice(['OH', 'AZ', 'CO', 'NE', 'ID', 'FL', 'CA'])} #####",
            "DE": f"{street}{end} {number}, ##### {city}",
            "FR": f"{number} {end} {street}, ##### {city}",
            "ES": f"Calle {street} {number}, ##### {city}",
            "NL": f"{street}{end} {number}, #### @@ {city}",
        }[land])

    def city(self):
        return self.pick("CITY")

    def company(self):
        return f"{self.pick('COMPANY')} {self.rng.choice(words.COMPANY_END)}"

    def product(self):
        return self.pick("PRODUCT")

    def order(self):
        return digits(self.rng, self.rng.choice(self.ORDERS))

    def tracking(self):
        return digits(self.rng, self.rng.choice(self.TRACKING))

    def date(self):
        year, month, day = self.rng.randrange(2023, 2028), self.rng.randrange(1, 13), self.rng.randrange(1, 29)
        name = self.MONTHS[month - 1]
        return self.rng.choice([f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year}", f"{name} {day}",
                                f"{day} {name} {year}"])

    def time(self):
        hour, minute = self.rng.randrange(7, 20), self.rng.choice(["00", "15", "30", "45", "05", "50"])
        return self.rng.choice([f"{hour}:{minute}", f"{(hour - 1) % 12 + 1}:{minute} {'am' if hour < 12 else 'pm'}"])

    def price(self):
        return digits(self.rng, self.rng.choice(self.PRICES).format(self.rng.randrange(3, 990)))

    def version(self):
        prefix, parts = self.rng.choice(["v", ""]), self.rng.choice([2, 3])
        return prefix + ".".join(str(self.rng.randrange(1, 20)) for _ in range(parts))

    def url(self):
        host = self.rng.choice(["www.example.com", "docs.example.org", f"{self.pick('COMPANY').lower()}.example"])
        return f"https://{host}/{self.rng.choice(['help', 'news', 'releases', 'status', 'faq'])}"

    def count(self):
        return str(self.rng.randrange(2, 60))

    def weekday(self):
        return self.rng.choice("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())


def read_templates():
    """The templates of every split, from templates.txt."""
    templates = {}
    for line in (FOLDER / "templates.txt").read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r"\[\w+\]", line):
            section = templates.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            section.append(line)
    return templates


def is_masked(template):
    """True if the template holds personal data."""
    return any("{%s}" % slot in template for slot in MASKED)


def fill(template, filler):
    """One row from a template, and the values that were masked."""
    text, masked, values = "", "", []
    for piece in re.split(r"(\{\w+\})", template):
        slot = piece[1:-1] if piece.startswith("{") else ""
        value = getattr(filler, slot)() if slot else piece
        text += value
        if slot in MASKED:
            values.append(value)
            masked += "[NAME]" if slot in ("name", "first", "last") else f"[{slot.upper()}]"
        else:
            masked += value
    return {"prompt": PROMPT.format(text), "completion": masked}, values


def make_rows(split, templates, taken):
    """The rows of a split, nothing to mask in NOTHING_SHARE of them.

    Every template is used about equally often, those with more than names twice as often: names are in half of them.

    Masked values in `taken` are avoided; the split's own, but for names, are added to it.
    """
    rng = random.Random(f"qshard pii {split}")
    filler, count = Filler(split, rng), SPLITS[split]
    nothing = round(count * NOTHING_SHARE)
    order = []
    for wanted, masked in ((nothing, False), (count - nothing, True)):
        part = [template for template in templates if is_masked(template) == masked]
        part += [template for template in part if any("{%s}" % slot in template for slot in MASKED[3:])]
        rounds = -(-wanted // len(part))
        order += [t for _ in range(rounds) for t in rng.sample(part, len(part))][:wanted]
    rng.shuffle(order)
    rows, seen, used = [], set(), set()
    for template in order:
        while True:
            row, values = fill(template, filler)
            shown = any(value in row["completion"] for value in values)
            if row["prompt"] not in seen and not shown and not taken.intersection(values):
                break
        seen.add(row["prompt"])
        used.update(value for value in values if re.search("[@0-9]", value))
        rows.append(row)
    taken |= used
    return rows


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    templates, taken = read_templates(), set()
    for split in SPLITS:
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for row in make_rows(split, templates[split], taken):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
