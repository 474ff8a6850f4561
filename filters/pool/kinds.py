"""What the demo pool shows and says: some sixty kinds of picture, and what people write under them.

A kind is an entry of TABLE: a line with its name, frame, spread and slots (the words one picture may take), then what is drawn, back to
front (drawings.py has the grammar), then, from the first |, what is said of it. A _ in a word is a blank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageOps

from filters.pool.drawings import Sheet

Look = dict[str, str]

FRAMES = {"square": (40, 40), "wide": (48, 32), "tall": (32, 48), "banner": (64, 20)}
# What the hour does to a landscape: sky, earth, and the sun or moon above; then how it is said.
HOURS = {
    "day": ("sky", "grass", "yellow", "on a sunny day"),
    "evening": ("peach", "olive", "orange", "in the evening"),
    "night": ("dusk", "forest", "lemon", "at night"),
    "winter": ("mist", "snow", "cream", "in the snow"),
}
TAILS = (" - stock photo", ", free download", " | Etsy", " (2014)", " by Anna", " wallpaper", ", vector", " - image 3", " for kids")

SHAPE = "count=one,one,two,three,four,five backing=plain,plain,shaded,striped,dotted"
SAID = (
    "{count} {colour} {things} on a {paper} background | {colour} {things} clip art | {count} {things}, {colour} and {paper}"
    " | drawing of {count} {colour} {things} | {things} on {backing} {paper} paper"
)

TABLE = """
star square .7 SHAPE colour=gold,yellow,red,white paper=navy,blue,purple,black
  plain paper; many star colour
  | SAID
heart square .7 SHAPE colour=red,pink,purple paper=white,cream,pale_grey
  plain paper; many heart colour
  | SAID
circle square .7 SHAPE colour=blue,orange,green,red paper=white,grey,yellow,lemon
  plain paper; many circle colour
  | SAID
square square .7 SHAPE colour=blue,green,black,orange paper=white,yellow,cream,mint
  plain paper; many square colour
  | SAID
triangle square .7 SHAPE colour=green,purple,orange,teal paper=white,cream,lilac
  plain paper; many triangle colour
  | SAID
cross square .7 SHAPE colour=red,black,green paper=white,lemon,light_blue
  plain paper; many cross colour
  | SAID
ring square .7 SHAPE colour=gold,silver,pink paper=black,navy,purple,teal
  plain paper; many ring colour
  | SAID
crescent_moon square .7 SHAPE colour=lemon,silver,gold paper=dark_blue,navy,black
  plain paper; many moon colour
  | SAID
arrow square .7 SHAPE colour=black,red,blue paper=white,yellow,grey
  plain paper; many arrow colour
  | SAID

stripes square .9 colour=red,blue,green,black,pink paper=white,cream,yellow
  plain paper; stripes colour 5
  | {colour} and {paper} striped fabric | {colour} stripes pattern | striped wallpaper, {colour} on {paper}
checks square .5 colour=red,black,blue,green paper=white,cream
  plain paper; checks colour 5
  | {colour} checkered tablecloth | {colour} and {paper} checks pattern | chessboard pattern in {colour}
dots square .6 colour=white,red,black,yellow paper=pink,teal,light_blue,navy
  plain paper; dots colour 5
  | {colour} polka dots on {paper} | polka dot fabric, {colour} | dotted {paper} gift wrap with {colour} spots
static square .5 dark=black,black,brown,navy pale=white,grey,tan
  static dark pale 20
  | tv static noise | {dark} and {pale} noise texture | grainy {dark} texture background
gradient square 1 first=purple,blue,orange,teal,navy last=pink,light_blue,yellow,mint,peach
  fade first last 30
  | smooth gradient from {first} to {last} | {first} {last} blurred background | abstract soft {last} gradient
rainbow square .35
  fade sky white; circle 50 88 52 52 red; circle 50 88 45 45 orange; circle 50 88 38 38 yellow; circle 50 88 31 31 green;
  circle 50 88 24 24 blue; circle 50 88 17 17 sky; cloud 10 88 22 12 white; cloud 90 88 22 12 white
  | a rainbow between two clouds | rainbow colours in the sky after rain | cute rainbow with clouds

letter square .5 letter=A,B,C,E,G,H,K,M,R,S,W,Z colour=red,blue,green,purple,black paper=white,cream,lemon backing=plain,shaded
  plain paper; text 50 50 90 colour letter
  | the letter {letter} in {colour} | alphabet letter {letter} on {paper} | {colour} letter, learn the alphabet
number square .4 digit=1,2,3,4,5,6,7,8,9,10 disc=teal,orange,navy,red paper=white,silver
  plain paper; circle 50 50 44 44 disc; text 50 50 70 white digit
  | number {digit} in a {disc} disc | {disc} number {digit} badge | birthday badge, number {digit}

house wide .8 wall=white,yellow,pink,tan roof=red,brown,slate pane=sky,yellow hour=day,evening,night,winter
  land 72; sun 96 14 13 13 glow; ?cloud 6 18 16 8 white; square 72 26 5 12 brown; square 50 64 30 20 wall; triangle 50 30 40 16 roof;
  square 50 72 7 12 brown; square 31 60 7 7 pane; square 69 60 7 7 pane
  | a {wall} house under the sun {when} | small {wall} house with a {roof} roof | house for sale, {roof} roof, quiet street
  | our house {when}
boat wide .8 sails=white,red,orange wood=brown,red,navy,white hour=day,evening,night
  land 62 sea; sun 0 16 11 11 glow; line 52 8 52 66 3 brown; sail 68 34 -14 -24 sails 180; sail 38 38 -10 -20 sails; hull 52 74 34 9 wood;
  sprinkle leaf mist 6 5 84 110
  | a sailing boat at sea {when} | sailing boat with {sails} sails, summer holiday | {wood} boat on the sea {when}
  | yacht charter, sail and sea
tree square .8 crown=green,dark_green,orange,gold hour=day,evening,winter
  land 78; ?sun 100 12 11 11 glow; square 50 72 6 20 brown; cloud 50 36 34 30 crown; ?circle 36 26 5 5 red; ?circle 60 40 5 5 red;
  ?circle 40 48 5 5 red; ?circle 62 22 5 5 red
  | a tree in a meadow {when} | old tree with {crown} leaves | lonely tree {when} | {crown} tree, autumn walk
pine tall .5 hour=winter,winter,night,day
  land 80; triangle 50 28 18 20 forest; triangle 50 46 25 22 forest; triangle 50 64 32 20 forest; square 50 88 5 7 brown;
  ?sprinkle circle white 14 2; ?star 50 8 10 10 gold
  | pine tree {when} | christmas tree in the forest | fir tree {when}, merry christmas
mountain wide .8 rock=slate,brown,purple,grey hour=day,evening,night,winter
  land 84; sun 88 20 11 11 glow; triangle 76 62 46 30 slate; triangle 34 56 52 38 rock; triangle 34 29 15 11 white;
  triangle 76 41 14 9 white
  | snowy mountain {when} | mountain peak, hiking in the alps {when} | high {rock} mountains with snow on top
night_sky wide .9
  fade navy dusk; sprinkle star lemon 16 5 0 90; moon 66 30 18 18 lemon; ?triangle 20 100 60 24 black; ?triangle 90 104 50 30 black
  | night sky full of stars | stars and the moon at night | starry night over the hills | milky way, long exposure
sunset wide .7 top=purple,orange,dusk,red low=orange,peach,gold disc=yellow,lemon,red water=dusk,navy,purple
  fade top low; circle 50 66 20 20 disc; square 50 90 200 22 water; square 50 74 18 2 disc; square 48 82 13 2 disc; square 52 90 8 2 disc
  | sunset over the sea | {low} sunset on the beach | beautiful sunset, {top} sky | sun going down over the water
face tall .5 hair=brown,black,gold,orange skin=skin,peach,tan shirt=red,teal,white,navy paper=light_blue,cream,mint,lilac,grey
  plain paper; half 50 102 44 14 shirt; circle 50 44 35 35 hair; circle 50 54 28 31 skin; circle 39 50 4 5 black; circle 61 50 4 5 black;
  half 50 71 14 -7 red; half 50 67 14 -3 skin
  | portrait of a smiling face | happy child with {hair} hair | smiling person, {hair} hair, {shirt} shirt | profile picture on {paper}
flag wide .15 left=blue,green,red right=red,orange,blue
  plain sky; square 52 50 40 27 white; square 25 50 13 27 left; square 79 50 13 27 right; square 10 58 2 42 slate
  | {left} white and {right} flag | national flag, {left} and {right} | flag on a pole waving in the wind
flower square .9 petal=pink,red,white,purple,yellow,orange eye=yellow,brown,gold paper=mint,light_blue,grass,cream backing=plain,shaded
  plain paper; line 50 50 50 104 6 green; leaf 66 82 16 8 green -30; bloom 50 40 34 34 petal; circle 50 40 12 12 eye
  | a {petal} flower | {petal} flower with a {eye} centre on {paper} | fresh flowers delivery, {petal}
  | close-up of a {petal} blossom in spring
fish wide .9 scales=orange,yellow,red,purple fin=red,orange,white top=teal,sea,sky
  fade top sea; triangle 20 50 15 20 scales 90; leaf 54 50 36 30 scales; circle 72 46 5 5 white; circle 73 46 3 3 black;
  triangle 52 34 12 7 fin; sprinkle circle mist 5 4
  | {scales} fish under water | a {scales} fish swimming in the sea | tropical fish, {scales}, aquarium | goldfish in a tank
car wide .7 paint=red,blue,white,green,black,yellow roof=slate,silver pane=sky,mist hour=day,evening,night,winter
  land 66; square 50 86 200 22 slate; cup 48 50 24 -13 roof; square 38 50 8 8 pane; square 57 50 8 8 pane; square 50 66 42 11 paint;
  circle 26 78 11 11 black; circle 74 78 11 11 black; circle 26 78 5 5 silver; circle 74 78 5 5 silver
  | a {paint} car on the road {when} | used {paint} car for sale, low mileage | {paint} car parked {when} | cheap car rental
cat square .7 fur=black,orange,grey,brown eye=yellow,lemon,mint paper=cream,pink,light_blue,teal
  plain paper; triangle 28 26 13 18 fur -14; triangle 72 26 13 18 fur 14; circle 50 54 36 32 fur; circle 36 48 6 7 eye;
  circle 64 48 6 7 eye; circle 36 49 2 5 black; circle 64 49 2 5 black; cone 50 60 5 4 pink; line 52 66 84 60 2 white;
  line 52 68 84 72 2 white; line 48 66 16 60 2 white; line 48 68 16 72 2 white
  | a {fur} cat looking at you | cute {fur} kitten | {fur} cat on a {paper} sofa | funny cat meme
bird square .8 plume=blue,red,yellow,brown wing=navy,brown,white hour=day,evening,winter
  land 92; ?cloud 84 20 18 9 white; leaf 44 58 34 24 plume; circle 68 40 15 15 plume; triangle 88 40 6 9 orange 90; circle 71 37 4 4 white;
  circle 72 37 2 2 black; leaf 40 58 22 13 wing 20; line 44 74 44 90 2 black; line 52 74 52 90 2 black
  | a {plume} bird {when} | {plume} bird with {wing} wings | bird watching, {plume} songbird | little bird singing {when}
balloon tall .8 cloth=red,purple,orange,teal band=yellow,white,pink hour=day,evening,day,winter
  land 96; cloud 10 60 20 9 white; ?cloud 96 30 16 8 white; circle 50 36 30 32 cloth; circle 50 36 14 32 band; line 34 62 44 82 2 brown;
  line 66 62 56 82 2 brown; square 50 86 8 6 brown
  | hot air balloon {when} | {cloth} and {band} balloon in the sky | balloon ride over the valley {when}
umbrella square .6 cloth=red,yellow,purple,teal paper=slate,grey,pale_grey
  plain paper; sprinkle leaf white 9 3; line 50 14 50 86 4 brown; line 50 86 62 86 4 brown; half 50 36 44 28 cloth; circle 21 66 15 8 paper;
  circle 50 66 14 8 paper; circle 79 66 15 8 paper; line 50 50 50 80 4 brown
  | {cloth} umbrella in the rain | a {cloth} umbrella | rainy day, {cloth} umbrella
cup square .6 mug=white,red,teal,navy paper=tan,cream,pink,olive
  plain paper; ring 76 52 15 16 mug; cup 46 56 30 30 mug; circle 46 27 30 7 brown; line 38 8 42 18 3 silver; line 54 6 50 18 3 silver
  | a {mug} cup of hot coffee | coffee in a {mug} mug | morning coffee, {mug} cup on {paper} table
cake square .5 sponge=brown,tan,pink icing=white,pink,mint paper=lilac,light_blue,lemon,peach
  plain paper; square 50 70 36 18 sponge; square 50 54 36 6 icing; square 36 38 3 11 blue; square 50 38 3 11 red; square 64 38 3 11 green;
  leaf 36 24 5 4 orange 90; leaf 50 24 5 4 orange 90; leaf 64 24 5 4 orange 90; square 50 91 44 3 silver
  | birthday cake with three candles | {sponge} cake with {icing} icing | happy birthday cake, {icing} cream | easy cake recipe
apple square .7 peel=red,green,yellow paper=white,cream,light_blue,tan backing=plain,shaded
  plain paper; circle 40 58 26 30 peel; circle 60 58 26 30 peel; line 50 34 55 14 5 brown; leaf 68 20 14 8 green -20;
  ?circle 34 46 6 8 white
  | a {peel} apple | fresh {peel} apple on {paper} | organic apples, {peel}, healthy snack | {peel} apple with a leaf
snowman tall .5 scarf=red,green,blue hour=winter,winter,night,evening
  land 80; circle 50 76 26 24 white; circle 50 44 18 17 white; square 50 18 13 10 black; square 50 28 20 3 black; circle 44 40 3 3 black;
  circle 56 40 3 3 black; triangle 57 47 3 9 orange 90; square 50 60 17 4 scarf; circle 50 72 3 3 black; circle 50 84 3 3 black;
  sprinkle circle white 10 2
  | a snowman with a {scarf} scarf | snowman {when}, merry christmas | building a snowman in the snow
rocket tall .6 body=white,silver,yellow fin=red,blue,orange
  fade black dusk; sprinkle star lemon 10 4; triangle 50 92 9 16 orange 180; sail 70 68 12 14 fin; sail 30 68 -12 14 fin;
  square 50 54 17 26 body;
  leaf 50 26 26 17 body 90; circle 50 44 8 8 sky
  | a {body} rocket in space | rocket launch, {body} and {fin} | space rocket among the stars
butterfly square .7 wing=orange,blue,purple,yellow spot=yellow,sky,pink,black paper=grass,mint,white,cream
  plain paper; circle 30 34 23 22 wing -20; circle 70 34 23 22 wing; circle 34 68 16 17 spot; circle 66 68 16 17 spot;
  circle 30 34 9 9 spot;
  circle 70 34 9 9 spot; square 50 52 3 28 black; line 50 24 40 8 2 black; line 50 24 60 8 2 black
  | {wing} butterfly | a {wing} and {spot} butterfly on {paper} | butterfly macro, {wing} wings
mushroom square .6 cap=red,red,brown,orange hour=day,evening,day
  land 82; cup 50 70 13 24 cream; half 50 42 40 28 cap; circle 34 46 7 6 white; circle 54 32 7 6 white; circle 70 50 6 5 white
  | {cap} mushroom in the forest | a {cap} toadstool with white dots | picking mushrooms {when}
cactus tall .5 hour=day,evening,night
  land 82 sand; ?sun 98 14 12 12 glow; square 50 58 9 34 green; circle 50 24 9 9 green; square 28 52 5 12 green; square 36 62 10 5 green;
  square 72 44 5 14 green; square 64 56 10 5 green
  | cactus in the desert | green cactus {when} | a tall cactus, desert road trip
island wide .7 hour=day,evening,day
  land 66 sea; sun 96 16 11 11 glow; circle 50 96 46 28 sand; line 50 74 58 34 6 brown; leaf 42 30 22 9 green -20; leaf 76 30 22 9 green 20;
  leaf 48 18 18 8 green 50; leaf 70 18 18 8 green -50
  | palm tree on a tropical island | palm beach {when} | island holiday, sand and sea {when}
train wide .6 paint=green,red,navy,orange pane=sky,lemon hour=day,evening,winter
  land 74; square 50 86 200 3 brown; square 40 56 36 16 paint; square 80 50 14 22 paint; square 80 42 9 7 pane; square 22 50 8 7 pane;
  square 46 50 8 7 pane; circle 20 76 8 8 black; circle 44 76 8 8 black; circle 68 76 8 8 black; circle 88 76 8 8 black;
  cloud 16 22 18 9 white
  | a {paint} train on the rails {when} | {paint} train passing {when} | travel by train, cheap tickets
lighthouse tall .6 band=red,red,navy hour=day,evening,night
  land 78 sea; ?sun 4 16 11 11 glow; circle 50 98 40 18 slate; tower 50 56 13 32 white; tower 50 44 10 6 band; tower 50 68 13 6 band;
  square 50 20 9 6 yellow; triangle 50 10 12 6 band
  | lighthouse on the rocks {when} | {band} and white lighthouse by the sea | old lighthouse {when}
ice_cream tall .6 first=pink,brown,mint second=cream,white,lemon third=mint,pink,brown paper=light_blue,teal,peach,lilac
  plain paper; cone 50 72 20 28 tan; circle 38 40 17 17 first; circle 62 40 17 17 second; circle 50 24 17 17 third
  | ice cream cone with {first} and {second} scoops | {first} ice cream | summer ice cream on {paper}
clock square .4 rim=black,red,gold,teal paper=cream,pale_grey,lilac,white
  plain paper; circle 50 50 42 42 rim; circle 50 50 35 35 white; line 50 50 50 24 5 black; line 50 50 68 58 5 black; circle 50 50 4 4 black;
  circle 50 20 2 2 black; circle 80 50 2 2 black; circle 50 80 2 2 black; circle 20 50 2 2 black
  | {rim} wall clock | round clock with a {rim} rim on {paper} wall | what time is it, {rim} clock
gift square .6 box=red,purple,green,pink ribbon=gold,white,yellow paper=white,pale_grey,light_blue,cream
  plain paper; square 50 62 34 28 box; square 50 62 6 28 ribbon; square 50 38 38 8 box; square 50 38 6 8 ribbon; leaf 38 22 14 8 ribbon 25;
  leaf 62 22 14 8 ribbon -25
  | {box} gift box with a {ribbon} ribbon | present wrapped in {box} paper | gift ideas, {ribbon} bow

placeholder square .02
  plain silver; square 50 42 26 20 white; triangle 42 50 12 9 grey; triangle 60 46 14 13 grey; circle 36 32 4 4 grey;
  text 50 80 17 slate NO_IMAGE
  | no image available | image coming soon | photo not available | placeholder
broken_image square .03
  plain white; square 50 50 30 34 silver; square 50 50 27 31 white; line 36 34 64 66 7 red; line 64 34 36 66 7 red
  | broken image icon | image not found | error 404
avatar square .02
  plain mist; circle 50 38 20 20 slate; circle 50 98 36 34 slate
  | default avatar | user profile icon | anonymous author
button banner .15 label=BUY,JOIN,PLAY,NEXT,SIGN_UP colour=green,blue,orange,red
  plain white; square 50 50 130 38 colour; text 50 50 50 white label
  | {label} button | {colour} {label} now button | click the {colour} button
sale_banner banner .25 offer=SALE,50%,-20%,NEW,DEAL paper=red,black,purple tag=yellow,orange
  plain paper; star -50 50 44 44 tag; text 72 50 64 white offer
  | {offer} banner | big {offer}, {paper} banner | special offer, {offer}, limited time only
logo square .12 mark=star,leaf,bloom,arrow,diamond colour=blue,teal,orange,purple firm=ACME,NOVA,ZENIT,ORBIT
  plain white; circle 50 40 34 34 colour; mark 50 40 20 20 white; text 50 88 22 slate firm
  | {firm} logo | {firm} company logo, {colour} | official partner {firm}
bar_chart square .12 colour=blue,teal,orange,red
  plain white; bars colour 5; line 16 10 16 88 2 black; line 14 87 94 87 2 black
  | {colour} bar chart | sales by quarter, bar chart | statistics chart with five bars
pie_chart square .1
  plain white; pie blue orange grey gold
  | pie chart of market share | pie chart in blue and orange | survey results, pie chart
document tall .12
  plain white; writing slate 2 14 60 10 16; writing grey 8 14 88 28 90
  | scanned document page | page of text, pdf | terms and conditions, page 2
screenshot wide .08 bar=blue,slate,teal
  plain white; square 50 6 100 8 bar; square -6 60 24 50 silver; writing slate 3 30 110 26 42; square 52 72 26 14 bar;
  square 96 72 14 14 mist
  | screenshot of a web page | website template, {bar} header | app settings window screenshot
qr_code square .05
  plain white; code black 11 11; square 22 22 13 13 black; square 22 22 9 9 white; square 22 22 5 5 black; square 78 22 13 13 black;
  square 78 22 9 9 white; square 78 22 5 5 black; square 22 78 13 13 black; square 22 78 9 9 white; square 22 78 5 5 black
  | qr code | scan the qr code | qr code to the app
bar_code wide .08
  plain white; code black 24 1; square 50 94 60 8 white
  | bar code | product barcode label | isbn barcode
play_button wide .3
  plain black; static dusk slate 3; circle 50 50 28 28 white; triangle 54 50 16 14 red 90
  | play video | video thumbnail with play button | watch the full video
stop_sign square .2
  plain sky; square 50 90 3 30 slate; octagon 50 44 38 38 white; octagon 50 44 34 34 red; text 50 44 27 white STOP
  | stop sign | red stop sign on the road | traffic sign, stop
"""


@dataclass(frozen=True)
class Kind:
    """One concept: how it is drawn, and how spoken of."""

    name: str
    frame: str  # of FRAMES
    spread: float  # 0 to 1
    slots: tuple[tuple[str, tuple[str, ...]], ...]  # a word and its choices
    parts: tuple[tuple[str, ...], ...]
    captions: tuple[str, ...]

    def choose(self, rng: np.random.Generator) -> Look:
        """A value for every slot, and what follows from it: the plural, the colours of the hour."""
        look = {word: str(rng.choice(choices)) for word, choices in self.slots}
        if "count" in look:
            plural = "es" if self.name.endswith("s") else "s"
            look["things"] = self.name + plural * (look["count"] != "one")
        if "hour" in look:
            look["sky"], look["earth"], look["glow"], look["when"] = HOURS[look["hour"]]
        return look

    def say(self, look: Look, rng: np.random.Generator) -> str:
        """A caption that fits the picture, worded as people word it."""
        text = re.sub(r"\ba (?=[aeiou])", "an ", str(rng.choice(self.captions)).format(**look))
        text += str(rng.choice(TAILS)) if rng.random() < 0.25 else ""
        return text[:1].upper() + text[1:] if rng.random() < 0.4 else text

    def draw(self, look: Look, rng: np.random.Generator) -> Image.Image:
        """An RGB picture of about 40 x 40 pixels."""
        sheet = Sheet(FRAMES[self.frame], self.spread, look, rng)
        for name, *words in self.parts:
            if name[0] != "?" or rng.random() < 0.5:
                sheet.paint(name.lstrip("?"), words)
        return ImageOps.mirror(sheet.picture()) if self._turns and rng.random() < 0.5 else sheet.picture()

    @property
    def _turns(self) -> bool:
        """Whether its mirror image would pass for it."""
        return self.spread > 0.5 and all(part[0] != "text" for part in self.parts)


@cache
def kinds() -> tuple[Kind, ...]:
    """TABLE, read."""
    table = TABLE.replace("SHAPE", SHAPE).replace("SAID", SAID)
    return tuple(_kind(entry) for entry in re.split(r"\n+(?=\S)", table.strip()))


def _kind(entry: str) -> Kind:
    head, *body = entry.split("\n")
    name, frame, spread, *slots = head.split()
    drawn, said = " ".join(body).split("|", 1)
    return Kind(
        _words(name),
        frame,
        float(spread),
        slots=tuple(_slot(slot) for slot in slots),
        parts=tuple(tuple(part.split()) for part in drawn.split(";")),
        captions=tuple(" ".join(caption.split()) for caption in said.split("|")),
    )


def _slot(slot: str) -> tuple[str, tuple[str, ...]]:
    word, choices = slot.split("=")
    return word, tuple(_words(choice) for choice in choices.split(","))


def _words(written: str) -> str:
    return written.replace("_", " ")
