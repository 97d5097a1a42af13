"""Files that name other files, under audio names and in disguise: none of what they name may be opened.

`canary` is a recording that lies next to them; `url` is a listener that must never be called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.media_files import recording

NAMES = ("a.mp3", "a.wav", "a.m4a", "a.flac", "a.ogg")


@dataclass(frozen=True, slots=True)
class Playlist:
    """A file that names others; `name` gives kind and disguise."""

    name: str
    file_name: str
    content: bytes


def _texts(target: str) -> dict[str, str]:
    """Every kind of playlist, naming one target (a path or a URL)."""
    return {
        "hls": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9.0,\n{target}\n#EXT-X-ENDLIST\n",
        "hls with a key": f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n'
        f"#EXTINF:9.0,\n{target}\n#EXT-X-ENDLIST\n",
        "hls with a map": f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-MAP:URI="{target}"\n#EXTINF:9.0,\n{target}\n',
        "hls master": f'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{target}"\n'
        f'#EXT-X-STREAM-INF:BANDWIDTH=9,AUDIO="a"\n{target}\n',
        "m3u": f"#EXTM3U\n#EXTINF:9,a\n{target}\n",
        "plain m3u": f"{target}\n",
        "pls": f"[playlist]\nNumberOfEntries=1\nFile1={target}\nLength1=9\nVersion=2\n",
        "xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track>'
        f"<location>{target}</location></track></trackList></playlist>",
        "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "smil": f'<smil><body><audio src="{target}"/></body></smil>',
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT9S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
        '<AdaptationSet mimeType="audio/wav"><Representation id="1" bandwidth="9">'
        f'<BaseURL>{target}</BaseURL><SegmentList><SegmentURL media="{target}"/></SegmentList>'
        "</Representation></AdaptationSet></Period></MPD>",
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "concat without its header": f"file '{target}'\nduration 9\n",
        "ffmetadata": f";FFMETADATA1\ntitle={target}\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\n"
        "m=audio 5004 RTP/AVP 0\n",
        "rtsp redirect": f"[Reference]\nRef1={target}\n",
        "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
        f"<Id>{target}</Id></CompositionPlaylist>",
        "subtitle index": f"# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n{target}\n",
    }


def _id3(size: int) -> bytes:
    lengths = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + lengths + bytes(size)


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda text: text,
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "empty lines": lambda text: b"\r\n\r\n \t\n" + text,
    "utf-16": lambda text: text.decode().encode("utf-16"),
    # Zero bytes make it no text; the library's probes skip an ID3 tag.
    "zero at its end": lambda text: text + bytes(64),
    "id3 tag before": lambda text: _id3(300) + text,
    "long comment before": lambda text: b"# " + b"\xc3\xa4" * 3000 + b"\n" + text,
    "upper case": lambda text: text.upper(),
    "wav header before": lambda text: b"RIFF\xff\xff\xff\xffWAVELIST" + text,
    "recording before": lambda text: recording("mp3")[:64] + text,
}


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + kind + content


def reference_movie(target: bytes) -> bytes:
    """The index of an m4a whose samples lie in another file: the data reference names it."""
    return _movie_elsewhere(_box(b"url ", b"\x00\x00\x00\x00" + target + b"\x00"))


def alias_movie(target: bytes) -> bytes:
    """The same by an alias record with the absolute path, as QuickTime wrote it."""
    path = struct.pack(">hH", 18, len(target)) + target + bytes(len(target) % 2) + struct.pack(">hH", -1, 0)
    volume = struct.pack(">B27s", 3, b"dsk")
    name = struct.pack(">B63s", 9, b"canary.wav")
    record = bytes(10) + volume + bytes(12) + name + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16) + path
    return _movie_elsewhere(_box(b"alis", bytes(4) + record))


def _movie_elsewhere(reference: bytes) -> bytes:
    """An m4a without its samples, and with this data reference for its own; every box around it grows along."""
    whole = recording("m4a")
    index = whole[whole.index(b"moov") - 4 :]
    data = bytearray(whole[: struct.unpack_from(">I", whole)[0]] + index)
    own = _box(b"url ", b"\x00\x00\x00\x01")  # "in this file"
    at = data.index(own)
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        place = data.rindex(kind, 0, at) - 4
        length = struct.unpack_from(">I", data, place)[0] + len(reference) - len(own)
        data[place : place + 4] = struct.pack(">I", length)
    table = data.index(b"stco")
    for row in range(struct.unpack_from(">I", data, table + 8)[0]):
        struct.pack_into(">I", data, table + 12 + 4 * row, 10_000_000)  # far behind the end of this file
    data[at : at + len(own)] = reference
    return bytes(data)


def playlists(canary: Path, url: str) -> list[Playlist]:
    """Every kind in every disguise, naming the canary by path, by relative name and by URL, and the listener."""
    targets = {
        "path": str(canary),
        "relative name": canary.name,
        "file url": canary.as_uri(),
        "subfile": f"subfile,,start,0,end,99999,,:{canary}",
        "concat": f"concat:{canary}|{canary}",
        "listener": f"{url}/canary.wav",
    }
    found = []
    for target_kind, target in targets.items():
        for kind, text in _texts(target).items():
            for disguise, disguised in DISGUISES.items():
                name = f"{kind}, {target_kind}, {disguise}"
                found.append(Playlist(name, NAMES[len(found) % len(NAMES)], disguised(text.encode())))
        found.append(Playlist(f"reference movie, {target_kind}", "a.m4a", reference_movie(target.encode())))
        found.append(Playlist(f"alias movie, {target_kind}", "a.m4a", alias_movie(target.encode())))
    return found
