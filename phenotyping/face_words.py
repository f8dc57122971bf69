"""The words of facial description: stems, spellings, which words name a part of the face, and which mean the same.

A word becomes one or more tokens. Each has a `stem` (inflection and spelling are gone: slanting, slanted -> slant;
colour -> color) and a `meaning` (words that are used for one another share it: nasal, nose -> nose; wide, broad ->
wide)."""

import re
from functools import cache, lru_cache

import snowballstemmer

# Words that never count.
FUNCTION_WORDS = frozenset(
    "the a an of his her hers their its this that's these those such some any other another own he she they it child "
    "child's patient patient's individual individual's boy girl infant person also again too there's here's "
    "additionally particularly especially mostly predominantly very quite rather fairly just really so as "
    "appearing configuration form formed pair "
    "aspect side sides structure structures type overall generally general now possible possibly probable "
    "probably likely".split()
)
# Words of degree and side: they count only if a wording has them (Bilateral ptosis), and hinder no other wording.
DEGREE_WORDS = frozenset(
    "both left right bilateral bilaterally unilateral unilaterally sided mild mildly slight slightly somewhat relatively "
    "moderate moderately marked markedly severe severely significant significantly noticeable noticeably notable "
    "notably subtle subtly clear clearly obvious obviously apparent apparently distinct distinctly strikingly striking "
    "bit extremely unusually unusual abnormally excessively disproportionately considerably visibly minimally minimal "
    "appearance feature features shape shaped shapes contour profile partially partly definite definitely remarkably degree".split()
)
IGNORED = FUNCTION_WORDS | DEGREE_WORDS
LINKS = frozenset("at in on to onto from across along towards toward into within near by".split())
HEADS = """nose nostril naris ala columella septum bridge root ridge tip dorsum
eye eyeball globe eyelid eyebrow eyelash lash brow canthus fissure iris pupil sclera cornea lens conjunctiva orbit
socket supraorbital infraorbital periorbital palpebral retina macula lacrimal
mouth lip philtrum tongue tooth gum gingiva palate uvula bow cupid commissure vermilion incisor molar nasolabial alveolar
ear helix antihelix tragus antitragus lobe earlobe concha auricle
jaw mandible maxilla chin cheek cheekbone malar zygoma midface
forehead hairline temple glabella
face head skull cranium occiput vertex hair scalp
corner distance margin border area region skin cartilage bone suture fontanelle""".split()
MODIFIERS = """upper lower inner outer medial lateral superior inferior anterior middle mid central midline
frontal occipital parietal temporal bitemporal biparietal metopic preauricular interpupillary intercanthal third half top bottom
internal external front part end between around behind under above over""".split()
# Words used for one another in facial description; the first of a line is the meaning of all.
SAME_MEANING = """
nose nasal nasi nasum nasae nasus
ala alae alar
naris nares nostril nostrils
ear pinna pinnae auricle auricles auricular
helix helices helical
mouth oral
lip labial lips vermilion vermillion vermilions
eyelid lid lids eyelids blepharo
eyebrow brow brows eyebrows
eyelash lash lashes eyelashes cilia
canthus canthi canthal
tooth teeth dental dentition
tongue lingual
gum gingiva gingival gums
palate palatal palatine
face facial facies
head cranium cranial skull cephalic
mandible mandibular
maxilla maxillary
columella columellar
philtrum philtral
iris irises irides iridis iridal
zygoma zygomatic
blue bluish
yellow yellowish
retina retinal
macula macular
meet meeting meets join joined fused confluent
sclera sclerae scleral scleras
cornea corneal corneas
pupil pupillary
orbit orbital orbits
septum septal
forehead foreheads
earlobe earlobes
lateral laterally outer outside temporal-side
medial medially inner inside
upper superior
lower inferior
under below beneath underneath
wide broad widened broadened widening broadening wider width-increased
narrow narrowed narrowing narrowness pinched
short shortened shortening shorter
long elongated lengthened elongation lengthy
large big enlarged enlargement larger oversized
small tiny smaller smallish undersized diminutive
flat flattened flattening flatness
thick thickened thickening thickness
thin thinned thinning thinner thinness
deep deeply deepset
prominent prominence pronounced prominently
protrude protruding protruded protrusion protrudes projecting protuberant protuberance
droop drooping droopy droops drooped saggy sagging
sparse sparsely sparseness scant scanty scarce
hypoplastic hypoplasia underdeveloped underdevelopment
absent absence missing lack lacking
back posterior posteriorly backward backwards
up upward upwards upwardly
down downward downwards downwardly
out outward outwards outwardly
in inward inwards inwardly
close closely closed-set
separate separated separation
space spaced spacing
high highly
low lowly
full fullness
puffy puffiness
swollen swelling swell edema
increase increased increasing
decrease decreased decreasing reduced reduction diminished
asymmetric asymmetry asymmetrical asymmetrically unsymmetrical asymmetries
square squared
triangular triangle
tall taller
round rounded circular rounding
smooth smoothed
recede receding receded recession retruded retrusion retrusive retrude
sunken sunk
slope sloping sloped slopes
arch arched arching arches
bulge bulging bulged bulges
evert everted eversion everting
tent tented tenting
point pointed pointy
coarse coarsened coarseness coarsening
antevert anteverted anteversion
abnormal abnormality abnormalities anomaly anomalies anomalous
malformed malformation malformations
dimple dimples dimpled dimpling
crease creases creased groove grooves
fold folds folded
cleft clefts clefting
turn turned turning turns
tilt tilted tilting
slant slanted slanting slants
epicanthus epicanthic epicanthal epicanthi epicanthals
hypertelorism hyperteloric
hypotelorism hypoteloric
micrognathia micrognathic micrognathism
retrognathia retrognathic retrognathism
prognathia prognathism prognathic
microcephaly microcephalic
macrocephaly macrocephalic
brachycephaly brachycephalic
dolichocephaly dolichocephalic
plagiocephaly plagiocephalic
trigonocephaly trigonocephalic
turricephaly turricephalic
ptosis ptotic
strabismus strabismic
proptosis proptotic
enophthalmos enophthalmic
microphthalmia microphthalmic microphthalmos
exophthalmos exophthalmic
bulbous bulb bulbousness
convex convexity
concave concavity
curly curl curled curls
hair hairs
cheek cheeks
depress depressed depression
height vertical-dimension
breadth width
tag tags
""".strip().splitlines()
# Closed compounds that are also written with a hyphen or a blank: the parts become tokens, or the parts become one.
SPLIT_AFTER = ("up", "down", "low", "over", "out", "in", "mid", "deep", "wide", "close", "under")
SPLIT_BEFORE = frozenset(
    "slant slanted slanting slope sloped sloping turn turned turning set setting folded fold spaced hanging tilted tilting pointing face "
    "lying faced sweep swept curved".split()
)
JOINED = {
    ("eye", "brow"): "eyebrow",
    ("eye", "brows"): "eyebrows",
    ("eye", "lid"): "eyelid",
    ("eye", "lids"): "eyelids",
    ("eye", "lash"): "eyelash",
    ("eye", "lashes"): "eyelashes",
    ("ear", "lobe"): "earlobe",
    ("ear", "lobes"): "earlobes",
    ("eye", "ball"): "eyeball",
    ("eye", "balls"): "eyeballs",
    ("hair", "line"): "hairline",
    ("cheek", "bone"): "cheekbone",
    ("cheek", "bones"): "cheekbones",
    ("fore", "head"): "forehead",
    ("infra", "orbital"): "infraorbital",
    ("supra", "orbital"): "supraorbital",
    ("peri", "orbital"): "periorbital",
    ("mid", "line"): "midline",
    ("mid", "face"): "midface",
    ("mid", "facial"): "midface",
    ("pre", "auricular"): "preauricular",
}
BRITISH = re.compile(r"ae(?!$)|oe(?=d|s)|our(?=s|ed|ing|$)|is(?=e[ds]?$|ing$|ation)|(?<=gr)e(?=y)")
_stem_word = snowballstemmer.stemmer("english").stemWord
_WORD_PARTS = re.compile(rf"({'|'.join(SPLIT_AFTER)})({'|'.join(sorted(SPLIT_BEFORE, key=len, reverse=True))})$")


@lru_cache(100_000)
def stem(word: str) -> str:
    """A lower-case word without inflection, spelled the American way."""
    if word.endswith("itis"):
        return word  # an inflammation is not its organ: gingivitis, gingiva
    word = word.removesuffix("'s").removesuffix("’s")
    if len(word) > 4:
        word = word.replace("aemia", "emia").replace("aemi", "emi").replace("oedem", "edem").replace("haem", "hem")
        word = word.replace("coloured", "colored").replace("colour", "color").replace("grey", "gray")
        word = word.replace("isation", "ization").replace("centre", "center").replace("tumour", "tumor")
        word = re.sub("ised$", "ized", word)
    elif word == "grey":
        word = "gray"
    return _stem_word(word)


@cache
def _meanings() -> dict[str, str]:
    return {stem(word): stem(line.split()[0]) for line in SAME_MEANING for word in line.split()}


@lru_cache(100_000)
def tokens(word: str) -> tuple[tuple[str, str], ...]:
    """(stem, meaning) of each token of a lower-case word: one, or two if it is a compound such as downslanting."""
    if word in ("midface", "upset", "outset", "inset", "undergo"):
        parts = (word,)
    elif (match := _WORD_PARTS.match(word)) is not None:
        parts = match.groups()
    else:
        parts = (word,)
    stems = [stem(part) for part in parts]
    return tuple((token, _meanings().get(token, token)) for token in stems)


@cache
def head_stems() -> frozenset[str]:
    """Meanings of words that name a part of the face."""
    return frozenset(_meanings().get(stem(word), stem(word)) for word in HEADS)


@cache
def modifier_stems() -> frozenset[str]:
    """Meanings of words that say which part of it: upper, inner, lateral."""
    return frozenset(_meanings().get(stem(word), stem(word)) for word in MODIFIERS) - {"back"}


@cache
def _joined_stems() -> dict[tuple[str, str], str]:
    return {(stem(first), stem(second)): stem(whole) for (first, second), whole in JOINED.items()}


def joined_stem(first: str, second: str) -> tuple[str, str] | None:
    """The token that two neighbouring stems make up (eye, brow -> eyebrow), or None."""
    whole = _joined_stems().get((first, second))
    return whole and (whole, _meanings().get(whole, whole))


def names_site(meaning: str) -> bool:
    """Whether a meaning is a part of the face, or says which part of it."""
    return meaning in head_stems() or meaning in modifier_stems()
