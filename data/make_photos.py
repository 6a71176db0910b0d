#!/usr/bin/env python
"""Make litevae_diffae/assets/photos from two Debian packages of wallpapers.

    mkdir debs && cd debs
    apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04
    cd .. && python data/make_photos.py debs

Each photograph is scaled so that its short side is 768 px (Lanczos) and stored as JPEG, quality 95, without
chroma subsampling. Four of the nineteen pictures are drawn or composed on a computer and are left out.
The packages were version 20.04.0-2; the JPEGs in the repository were written by Pillow 13.0.
"""
import argparse, json, subprocess, tempfile
from pathlib import Path
from PIL import Image

SIDE, QUALITY = 768, 95
PHOTOS = { # name: (file in the package, title, author, licence), as in the package's copyright file
    "aitzgorri": ("aitzgorri_by_Aitzol_Berasategi.jpg", "aitzgorri", "Aitzol Berasategi, 2018", "CC BY 4.0"),
    "analogpattern": ("analogpattern_by_Peter_Nerlich.jpg", "analogpattern", "Peter Nerlich, 2018", "CC BY-SA 4.0"),
    "bridge": ("Bridge_by_Sander_Klootwijk.jpg", "Bridge", "Sander Klootwijk, 2018", "CC BY-SA 4.0"),
    "dragonfly": ("Dragonfly_by_Bolly.jpg", "Dragonfly", '"Bolly", 2018', "CC BY-SA 4.0"),
    "free": ("free_by_Peter_Nerlich.jpg", "free", "Peter Nerlich, 2018", "CC BY-SA 4.0"),
    "friends": ("friends_by_Aitzol_Berasategi.jpg", "friends", "Aitzol Berasategi, 2018", "CC BY 4.0"),
    "greentock": ("greentock_by_Peter_Nerlich.jpg", "greentock", "Peter Nerlich, 2018", "CC BY-SA 4.0"),
    "kleiber": ("Kleiber_by_Lukas_Baubkus.jpg", "Kleiber", "Lukas Baubkus, 2021", "CC BY-SA 3.0"),
    "life": ("life_by_Aitzol_Berasategi.jpg", "life", "Aitzol Berasategi, 2018", "CC BY 4.0"),
    "picosdeeuropa": ("picosdeeuropa_by_Aitzol_Berasategi.jpg", "picosdeeuropa", "Aitzol Berasategi, 2018", "CC BY 4.0"),
    "picture_0b": ("Picture_0B_by_freespace.jpg", "Picture 0B", 'Trevor "Freespace", 2018', "CC BY 4.0"),
    "picture_1a": ("Picture_1A_by_freespace.jpg", "Picture 1A", 'Trevor "Freespace", 2018', "CC BY 4.0"),
    "seeding": ("seeding_by_Clements_Engelhardt.jpg", "seeding", "Clemens Engelhardt, 2018", "CC0 1.0"),
    "sunset": ("sunset_by_Aitzol_Berasategi.jpg", "sunset", "Aitzol Berasategi, 2018", "CC BY 4.0"),
    "wine": ("Wine_by_Jakkub_Mede.jpg", "Wine", "Jakub Mede, 2018", "CC BY 4.0"),
}
URLS = {"CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/", "CC BY-SA 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
        "CC BY-SA 3.0": "https://creativecommons.org/licenses/by-sa/3.0/", "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/"}
NOTE = """The photographs of this folder are not covered by the Apache-2.0 licence of the package. Each is by its author, under the
licence named beside it. Changes: scaled to a short side of 768 pixels and stored again as JPEG; the scaled versions are
under the same licence as the originals.
"""
LEFT_OUT = ["umang_by_Abhishek_Mudgal.jpg", "Fossa_by_Jasper_Roks.jpg", "Infinite-Sea_by_Aury88.jpg",
            "Painting-Colors_by__herobrine7gamer.jpg"]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("debs", type=Path, help="folder with the two .deb files")
    p.add_argument("--out", type=Path, default=Path(__file__).parents[1]/"litevae_diffae/assets/photos")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        debs = sorted(args.debs.glob("lomiri-wallpapers-*.deb"))
        for deb in debs: subprocess.run(["dpkg-deb", "-x", deb, tmp], check=True)
        found = {f.name: f for f in Path(tmp).rglob("*.jpg")}
        wanted = [v[0] for v in PHOTOS.values()]
        if set(found) != {*wanted, *LEFT_OUT}: raise SystemExit(f"{args.debs}: expected the 19 pictures of the two packages, found {sorted(found)}")
        credits, total = [], 0
        for name, (file, title, author, licence) in PHOTOS.items():
            image = Image.open(found[file]).convert("RGB")
            scale = SIDE/min(image.size)
            image = image.resize((round(image.width*scale), round(image.height*scale)), Image.Resampling.LANCZOS)
            out = args.out/f"{name}.jpg"
            image.save(out, quality=QUALITY, subsampling=0, optimize=True, progressive=True)
            total += out.stat().st_size
            package = "lomiri-wallpapers-20.04" if name == "kleiber" else "lomiri-wallpapers-16.04"
            credits.append(dict(name=name, title=title, author=author, licence=licence, source=f"Debian package {package}, {file}"))
    (args.out/"credits.json").write_text(json.dumps(credits, indent=1, ensure_ascii=False) + "\n")
    lines = [f"{c['name']}.jpg: {c['title']!r} by {c['author']}; {c['licence']} ({URLS[c['licence']]}); {c['source']}" for c in credits]
    (args.out/"LICENCES.txt").write_text(NOTE + "\n" + "\n".join(lines) + "\n")
    print(f"{len(credits)} photographs, {total/1e6:.2f} MB")

if __name__ == "__main__": main()
