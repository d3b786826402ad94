"""The words of the lab's world: who asks, where, about what, and what a remark may say.

The lists are ours. Words are drawn with the odds of `zipf`, so that a few are common and most are
rare, as in real text.
"""

import random
from bisect import bisect
from functools import lru_cache
from itertools import accumulate

# Names of people who put a question; a name is the *voice* of its problem.
NAMES = (
    "Mia Ben Zoe Sam Ana Leo Eva Tom Ida Max Nora Finn Lena Omar Rosa Hugo Vera Ivan Cleo Yara "
    "Emil Kate Noah Ruth Alma Boris Clara David Elena Felix Greta Henry Irene Jonas Karin Lukas "
    "Marta Nils Olga Peter Quinn Robin Sofia Tariq Ursula Victor Wendy Xavier Agnes Bruno Celia "
    "Dario Edith Faisal Gloria Hassan Imani Jasper Keiko Liam Maeve Nadia Oscar Paula Rafael "
    "Selma Tessa Umar Viola Walter Yusuf Zelda Amir Bella Caleb Diana Esra Farid Gemma Harald "
    "Iris Jamal Kira Louis Mona Nestor Opal Pablo Renata Stefan Thea Ulrich Vikram Wanda Yannick "
    "Zara Adele Bashir Carmen Dmitri Eliza Fatima Gunnar Hilda Ismael Judith Kenji Lorena Mateo "
    "Naomi Otto Priya Roland Sigrid Tobias Ulla Valerie Wilma Yvonne Zoltan Anders Bianca Cosimo "
    "Daphne Enzo Flora Gaspar Helga Ignaz Jolanda Kasper Lydia Milan Noemi Orlando Petra Rupert "
    "Sandra Timo Urs Veronika Werner Ylva Zita Alfred Beatrix Clemens Dora Ewald Frieda Georg "
    "Hanna Ilse Jakob Klara Lorenz Meret Norbert Oda Philipp Regula Severin Tilda Ute Valentin "
    "Winfried Yola Zeno Albin Berta Corin Delia Egon Fabian Gesa Holger Ines Jutta Konrad Linus "
    "Minna Nikolas Olivia Pelle Runa Simeon Tamara Uwe"
).split()

# Countable things, which answers copy from the question.
THINGS = (
    "apples coins books cards pens shells stamps beads cups keys nuts pears buttons marbles "
    "tickets pebbles ribbons candles lemons feathers magnets plates rulers stickers acorns badges "
    "baskets bells blocks boats bottles bowls boxes bricks brushes buckets bulbs candies carrots "
    "chairs cherries clips clocks combs cones corks crates crayons crystals cubes daisies dice "
    "dolls drums eggs erasers figs flags flowers forks frames gems gloves grapes hammers hats "
    "helmets jars kites knives ladders lamps leaves letters limes magazines maps masks medals "
    "melons mirrors mugs nails napkins needles onions oranges papers peaches pencils pins planks "
    "plums poems pots prints puppets puzzles radios rings rocks ropes roses sacks scarves screws "
    "seeds shirts shoes socks spoons springs stars sticks stones straws tiles tins tokens tools "
    "towels toys trays trees tulips vases wheels whistles"
).split()

# Settings. Three attributes that students with a narrow window cannot see follow the place in
# this list (`register.attributes`).
SETTINGS = (
    "harbour museum;village school;old library;city garden;mountain hut;river market;castle "
    "kitchen;train station;music hall;summer camp;paper mill;night bakery;ferry dock;post office;"
    "glass studio;open theatre;salt works;toy shop;flower fair;chess club;stone bridge;radio "
    "tower;apple farm;swimming pool;book cellar;corner cafe;fire brigade;rowing club;weather "
    "station;wind mill;puppet stage;sugar factory;royal stable;desert camp;forest lodge;island "
    "clinic;north pier;copper mine;winter fair;bus depot;tea house;silk market;ship yard;clock "
    "tower;cheese dairy;town archive;skate park;moon observatory"
).split(";")

# What the lesson before the question was about: in prompts alone.
TOPICS = (
    "maps;rivers;planets;poems;bridges;insects;volcanoes;painting;spelling;whales;castles;clouds;"
    "music;trade;stars;dinosaurs;rhymes;engines;glaciers;bees;inventions;markets;oceans;legends"
).split(";")

OPENERS = (
    "Compute;Find;Work out;Determine;Please find;Tell me;Calculate;Can you find;"
    "Help me find;I need;Evaluate;Give me"
).split(";")

# What a remark says, drawn with fixed odds by every writer.
ADJECTIVES = (
    "tidy quick gentle clever simple curious pleasant neat honest patient modest bright careful "
    "familiar friendly gradual handy humble lively mild narrow ordinary plain playful polite "
    "proper pure quiet rapid regular rough sharp short silent sincere slow small smooth sober "
    "soft solid steady strange strict sturdy subtle sudden sweet swift tender thorough timid "
    "tiny useful usual vague vivid warm wise witty young absent ancient awkward balanced basic "
    "blunt bold brief brisk broad busy calm casual cheerful civil classic clear close cold "
    "common compact complex cool cosy crisp crucial cunning daily dark decent deep delicate "
    "dense direct distant double dry dull eager early earnest easy elegant empty endless exact "
    "exotic fair famous fancy fast feeble fertile fierce final fine firm flat flexible fluent "
    "formal fragile frank free fresh frugal full funny generous genuine giant glad gloomy golden "
    "graceful grand grave great green grim happy hard harsh hasty heavy hidden hollow icy ideal "
    "idle immense inner intense jolly joyful keen kind large late lazy lean light little local "
    "lofty logical lonely loose loud loyal lucky major mature mellow merry mighty minor mixed "
    "modern muddy musical mute mutual naive narrowing native nervous new nimble noble noisy "
    "novel obscure odd open orderly pale partial peculiar perfect petty placid plump poetic "
    "practical precise pretty primal prompt proud rare raw ready rich rigid ripe robust round "
    "royal rustic sacred safe sane scarce secret serene serious shallow shy"
).split()
NOUNS = (
    "puzzle task riddle exercise question problem challenge lesson game drill sum story test "
    "trick warm-up quiz topic example study pattern matter start route path case thought idea "
    "detail find step hunt search walk climb journey sketch pause break moment chapter page "
    "melody duty errand favour gesture habit hint jest joke knot ladder maze motive notion novelty "
    "object option order outing plan plot portion practice premise promise proof quest recipe "
    "remedy result reward rule scene scheme season signal skill sort subject surprise symbol "
    "system tale theme theory token tour trade trail treat trial tune turn twist venture verse"
).split()
OCCASIONS = (
    "afternoon evening morning class group child team weekend holiday winter autumn spring "
    "summer reader student teacher beginner traveller friend neighbour sister brother parent "
    "uncle cousin guest visitor sailor baker farmer doctor painter singer driver pilot miner "
    "clerk judge nurse guard scout tailor barber butcher carpenter mason plumber potter weaver "
    "shepherd fisher hunter knight queen prince wizard pirate poet author editor printer "
    "merchant banker broker lawyer scholar monk bishop mayor minister senator soldier captain "
    "general admiral engineer chemist botanist geologist surgeon dentist chemistry physics "
    "library kitchen garden balcony terrace attic basement corridor hallway porch meadow valley "
    "island desert forest jungle canyon harbour lagoon glacier prairie tundra volcano waterfall "
    "festival concert parade picnic banquet wedding birthday reunion ceremony lecture seminar "
    "workshop exam interview meeting conference debate election campaign voyage cruise flight "
    "ride march race match tournament contest final league season storm breeze blizzard drizzle "
    "sunrise sunset twilight midnight noon dawn dusk Monday Tuesday Wednesday Thursday Friday "
    "Saturday Sunday January February March April June July August September October November "
    "December century decade fortnight month week hour minute second breakfast lunch supper "
    "dinner snack dessert recess siesta vacation sabbath jubilee carnival circus theatre opera "
    "ballet cinema gallery museum market bazaar tavern cafe bakery brewery vineyard orchard"
).split()


@lru_cache(maxsize=64)
def _odds(n: int, exponent: float) -> list[float]:
    """Cumulative odds, proportional to ``(rank + 3) ** -exponent`` for ranks 1 to `n`."""
    return list(accumulate((rank + 3) ** -exponent for rank in range(1, n + 1)))


def zipf(words: list[str], rng: random.Random, exponent: float = 1.0) -> str:
    """Draw a word; earlier words are more common."""
    odds = _odds(len(words), exponent)
    return words[bisect(odds, rng.random() * odds[-1])]


def probabilities(words: list[str], exponent: float = 1.0) -> list[float]:
    """The probability of each word in `zipf`."""
    odds = _odds(len(words), exponent)
    return [(b - a) / odds[-1] for a, b in zip([0.0, *odds], odds, strict=False)]
