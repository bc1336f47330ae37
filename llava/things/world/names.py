"""What is known of the names of things: which may stand for one another's things, their plurals, colours and kinds."""

from __future__ import annotations

from functools import lru_cache

from ..pictures import Thing

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
# Names that may stand for each other's things, or whose pictures may be confused, though they end in different nouns
TAKEN_FOR = {
    "chicken": ("brown hen", "colorful rooster"),
    "duck": ("drake", "gander"),
    "drake": ("gander",),
    "seagull": ("silver gull",),
    "deer": ("doe", "caribou", "wapiti", "indian blackbuck"),
    "doe": ("caribou", "wapiti", "indian blackbuck"),
    "caribou": ("wapiti",),
    "mountaingoat": ("indian blackbuck",),
    "camel": ("dromedary",),
    "cow": ("bull", "zebu"),
    "bull": ("zebu", "yak", "bison"),
    "yak": ("bison",),
    "blue gnu": ("bison", "bull"),
    "sitting gnu": ("bison", "bull"),
    "sheep": ("ram",),
    "dog": ("dingo",),
    "crow": ("blackbird",),
    "rhea": ("ostrich",),
    "orca": ("dolphin", "whale"),
    "mouse": ("rat",),
    "butterfly": ("xanthia",),
    "stripey fish": ("butterflyfish", "clownfish", "moon wrasse", "coral trout", "dolphinfish"),
    "moon wrasse": ("coral trout", "dolphinfish"),
    "coral trout": ("dolphinfish",),
    "abalone": ("freshwater mussel",),
    "adelaide rosella": ("rainbow lorikeet",),
    "echidna": ("hedgehog",),
    "bee": ("hornet", "fly"),
    "mantis": ("grasshopper",),
    "chimpanzee": ("gorilla",),
    "flower": ("daffodil", "iris", "marigold", "red gazania", "rose", "alien tree"),
    "yellow flower": ("daffodil", "marigold", "red gazania"),
    "mushroom": ("cep",),
    "apple core": ("green apple", "red apple"),
    "peach": ("apricot",),
    "walnut": ("pecan", "almond"),
    "pecan": ("almond",),
    "yam": ("brown potato",),
    "lemon slice": ("yellow lemon", "sliced lime", "sliced orange"),
    "cello": ("violin",),
    "feathered hat": ("blue fedora", "green fedora", "sombrero"),
    "teapot": ("electric kettle",),
    "vw beetle": ("sedan car", "sports car", "race car"),
    "train sign": ("steam locomotive",),
}
_PAIRS = {frozenset((name, other)) for name, others in TAKEN_FOR.items() for other in others}
SAME_PLURAL = ("fish", "sheep", "deer", "bison", "caribou", "wapiti", "fowl", "trout", "shrimp", "kiwifruit")
PLURALS = {
    "mouse": "mice",
    "woodlouse": "woodlice",
    "scarf": "scarves",
    "mango": "mangoes",
    "potato": "potatoes",
    "dingo": "dingoes",
}
# Colours that everybody sees on the pictures of these things
COLOURS = {
    "black": ("blackbird", "crow", "echidna", "kangaroo", "bull", "teapot", "top hat", "gorilla", "woodlouse"),
    "blue": ("blue fedora", "sedan car"),
    "brown": ("brown slug", "american football", "kiwifruit", "pecan", "almond", "horse", "otter", "beaver", "frog"),
    "green": (
        *("green apple", "green pepper", "green bus", "green fedora", "pear", "grasshopper", "iguana", "tennis ball"),
        *("palm tree", "bolted lettuce"),
    ),
    "orange": ("orange", "mandarin orange", "sliced orange", "basketball", "carrot", "apricot"),
    "pink": ("pink cake", "pink flamingo", "pink tricycle", "button"),
    "purple": ("prune", "flower", "feathered hat"),
    "red": (
        *("strawberry", "raspberry", "red apple", "chile pepper", "toolbox", "gas cylinder", "rose", "ladybug"),
        *("fire truck", "cricket ball", "vw beetle"),
    ),
    "white": ("owl", "volleyball"),
    "yellow": ("yellow lemon", "yellow flower", "daffodil", "marigold", "rubber duck", "lemon slice"),
}
# Colours that two people may both see in one thing
NEAR_COLOURS = {
    *map(frozenset, (("red", "orange"), ("red", "pink"), ("red", "brown"), ("orange", "yellow"), ("orange", "brown"))),
    *map(frozenset, (("black", "brown"), ("pink", "purple"), ("blue", "purple"), ("yellow", "green"))),
    *map(frozenset, (("orange", "pink"), ("black", "blue"), ("yellow", "brown"))),
}
# Kinds that may both fit one thing
NEAR_KINDS = {
    frozenset(("food", "plant")),
    *(frozenset(("household item", kind)) for kind in ("food", "piece of clothing", "instrument", "sports item")),
}
# Things that not everybody counts among the kind of their folder, and those that may pass for another kind as well
DOUBTFUL = (
    *("apple core", "button", "modern clothespin", "old-fashioned clothespin", "cement mixer", "rubber duck", "cep"),
    *("train sign", "tractor wheel", "walnut sailboat", "trophy cup", "happy lion", "singing dinosaur", "alien tree"),
)
PASSES_FOR = {
    "abalone": ("food", "household item"),
    "freshwater mussel": ("food",),
    "shrimp": ("food",),
    "rubber duck": ("animal", "sports item"),
    "cement mixer": ("vehicle",),
    "happy lion": ("household item", "piece of clothing"),
    "baseball cap": ("sports item",),
    "glove": ("sports item",),
    "cep": ("food",),
    "pinecone": ("food", "household item"),
    "walnut sailboat": ("food", "plant", "household item", "sports item"),
    "tractor wheel": ("household item",),
    "train sign": ("household item",),
    "button": ("household item",),
}


@lru_cache(maxsize=1 << 16)
def alike(one: str, other: str) -> bool:
    """Whether one name may stand for the other's thing: "kangaroo" and "red kangaroo", "chicken" and "brown hen"."""
    same_noun = one.split()[-1] == other.split()[-1]
    return same_noun or one in other or other in one or frozenset((one, other)) in _PAIRS


def plural(name: str) -> str:
    """The plural of a name: its last word is changed."""
    *words, noun = name.split()
    if noun.endswith(SAME_PLURAL):
        several = noun
    elif noun in PLURALS:
        several = PLURALS[noun]
    elif noun.endswith("y") and noun[-2] not in "aeiou":
        several = f"{noun[:-1]}ies"
    elif noun.endswith(("s", "x", "z", "ch", "sh")):
        several = f"{noun}es"
    else:
        several = f"{noun}s"
    return " ".join((*words, several))


def with_article(noun: str) -> str:
    """A name or kind as it stands in a sentence: "an owl", "a european bear", "food"."""
    if noun == "food":
        return noun
    return f"an {noun}" if noun[0] in "aeiou" and not noun.startswith("eu") else f"a {noun}"


def colour_of(name: str) -> str | None:
    """The colour of the thing of this name on its picture, None where people would not agree."""
    return next((colour for colour, names in COLOURS.items() if name in names), None)


def may_be(thing: Thing) -> frozenset[str]:
    """The kinds that a thing may count as, its own among them."""
    near = {kind for pair in NEAR_KINDS if thing.kind in pair for kind in pair}
    return frozenset({thing.kind, *near, *PASSES_FOR.get(thing.name, ())})
