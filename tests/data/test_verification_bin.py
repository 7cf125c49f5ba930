"""Verification `.bin` files: every protocol is read, nothing is executed."""

import os
import pickle
import resource
import subprocess
import sys

import numpy as np
import pytest

from hf_face.data import UnsafePickleError, read_verification_bin
from hf_face.data.verification_bin import STAND_INS

IMAGES = [b"\xff\xd8\x00\n\xe9", b"second", b"third", b"\x80fourth"]
SAMPLES = ["py3", "py3_protocol2", "py2", "numpy"]


def dump(path, content, protocol=4):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        tuple(IMAGES),
        [bytearray(image) for image in IMAGES],
        [np.frombuffer(image, dtype=np.uint8) for image in IMAGES],
        [np.bytes_(image) for image in IMAGES],
        np.array(IMAGES, dtype=object),
    ],
    ids=["list", "tuple", "bytearray", "uint8 arrays", "numpy bytes", "object array"],
)
@pytest.mark.parametrize(
    "same",
    [[True, False], (1, 0), np.array([True, False]), [np.bool_(True), np.bool_(False)]],
    ids=["bools", "ints", "array", "numpy bools"],
)
def test_every_protocol_and_container(tmp_path, protocol, images, same):
    read, read_same = read_verification_bin(dump(tmp_path / "a.bin", (images, same), protocol))
    assert read == IMAGES
    assert read_same.tolist() == [True, False]


def test_python_2_strings_are_bytes(tmp_path):
    content = b"((lp0\nS'\\xff\\xd8'\np1\naS'b'\np2\na(lp3\nI01\natp4\n."  # as Python 2's protocol 0 writes it
    images, same = read_verification_bin(dump(tmp_path / "a.bin", content))
    assert images == [b"\xff\xd8", b"b"]
    assert same.tolist() == [True]


@pytest.mark.parametrize("sample", SAMPLES)
def test_insightface_samples_agree(shared_data, sample):
    folder = shared_data / "insightface_sample"
    expected, expected_same = read_verification_bin(folder / "lfw_sample_py3.bin")
    images, same = read_verification_bin(folder / f"lfw_sample_{sample}.bin")
    assert len(images) == 80 and images == expected
    assert same.sum() == 20 and (same == expected_same).all()
    assert all(image.startswith(b"\xff\xd8") for image in images)


def test_malicious_sample_is_refused(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError, match=r"malicious.bin refers to posix.system"):
        read_verification_bin(shared_data / "insightface_sample" / "malicious.bin")
    assert not os.listdir(tmp_path)


class Call:
    """Pickles as a call to an arbitrary function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "call",
    [
        Call(os.mkdir, "executed"),
        Call(eval, "__import__('os').mkdir('executed')"),
        Call(subprocess.call, [sys.executable, "-c", "open('executed', 'w')"]),
        Call(getattr, "text", "encode"),
        Call(np.load, "executed"),
    ],
    ids=["os", "eval", "subprocess", "getattr", "numpy"],
)
def test_calls_are_refused(tmp_path, monkeypatch, protocol, call):
    monkeypatch.chdir(tmp_path)
    path = dump(tmp_path / "a.bin", ([*IMAGES, call], [True, False]), protocol)
    with pytest.raises(UnsafePickleError, match=r"a.bin refers to"):
        read_verification_bin(path)
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("state", [{"stolen": True}, (None, {"__defaults__": ("latin1",)})], ids=["dict", "slots"])
def test_stand_ins_cannot_be_changed(tmp_path, state):
    change = b"c_codecs\nencode\n" + pickle.dumps(state, 2)[2:-1] + b"b0"  # BUILD sets a name's attributes
    path = dump(tmp_path / "a.bin", b"\x80\x02" + change + pickle.dumps((IMAGES, [True, False]), 2)[2:])
    assert read_verification_bin(path)[0] == IMAGES
    stand_in = STAND_INS["_codecs", "encode"]
    assert not vars(stand_in) and stand_in.__defaults__ is None


@pytest.mark.parametrize("name", ["bytes", "bytearray"])
@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_bytes_of_a_number_are_not_made(tmp_path, module, name):
    content = f"\x80\x02(c{module}\n{name}\nL100000000000L\n\x85R".encode("latin1") + b"l]\x88a\x86."
    with pytest.raises(ValueError, match=r"a.bin is damaged, or not a pickle: bytes of int are not allowed"):
        read_verification_bin(dump(tmp_path / "a.bin", content))


def test_python_2_bytearrays(tmp_path):
    # (bytearray, (u"\xff\xd8", "latin-1")), with Python 2's strings
    image = b"c__builtin__\nbytearray\n(X\x04\x00\x00\x00\xc3\xbf\xc3\x98U\x07latin-1tR"
    content = b"\x80\x02(" + image + image + b"l(I01\nl\x86."
    assert read_verification_bin(dump(tmp_path / "a.bin", content))[0] == [b"\xff\xd8"] * 2


def test_an_array_of_endless_lists_is_not_followed(tmp_path):
    endless = []
    endless += [endless] * 8
    array = np.empty(2, dtype=object)
    array[0] = array[1] = endless
    with pytest.raises(ValueError, match="expected encoded bytes for image 0, found list"):
        read_verification_bin(dump(tmp_path / "a.bin", (array, [True])))


def test_attributes_of_admitted_names_are_refused(tmp_path):
    content = b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93."  # STACK_GLOBAL follows dots
    with pytest.raises(UnsafePickleError, match=r"numpy.dtype.__init__"):
        read_verification_bin(dump(tmp_path / "a.bin", content))


def test_persistent_objects_are_refused(tmp_path):
    with pytest.raises(UnsafePickleError, match="external object"):
        read_verification_bin(dump(tmp_path / "a.bin", b"Pname\n."))


NESTED = b")" + b"".join(b"q%cK%c" % (i, i) + (b"0" + b"h%c" % i * 3 + b"\x87") for i in range(40))  # 3 ** 40 tuples


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04Nr\x00\x00\x00\x10.",  # 8 bytes: room for 2 ** 28 objects
        b"Np268435456\n.",
        b"\x80\x02}" + NESTED + b"Ns.",  # as a key, which is hashed
        b"\x80\x04(" + NESTED + b"\x91.",  # in a frozen set
        b"\x80\x02" + NESTED + b"Q.",  # as the name of an external object, which is printed
        b"\x80\x02cnumpy\ndtype\n" + NESTED + b"\x85R.",
        b"\x80\x05" + b"\x96" + (2**33).to_bytes(8, "little") + b".",  # a bytearray of 8 GB
        b"\x80\x04" + b"\x8e" + (2**33).to_bytes(8, "little") + b".",  # bytes of 8 GB
        b"\x80\x04\x95" + (2**33).to_bytes(8, "little") + b"N.",  # a frame of 8 GB
    ],
    ids=["memo", "memo as text", "key", "set", "external", "argument", "bytearray", "bytes", "frame"],
)
def test_few_bytes_take_neither_memory_nor_time(tmp_path, content):
    path = dump(tmp_path / "a.bin", content)
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(ValueError, match=r"a.bin"):
        read_verification_bin(path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 1
    assert after.ru_maxrss - before.ru_maxrss < 100_000  # KB


HELD = b"Nq\x00"  # an object that h refers to
H = b"h\x00"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"N.", "found NoneType"),
        (b"Np1\n.", "found NoneType"),  # Python 2 begins with 1
        (b"Np2\n.", "it numbers an object 2 after 1 instructions, at byte 1"),
        (HELD + H * 2 + b"\x87.", "found tuple"),  # three copies in five instructions
        (HELD + H * 2 + b"\x87q\x00" + H + b"\x86.", "contain one another many times, at byte 12"),  # nine in eight
        (HELD + H * 2 + b"\x87q\x00(" + H * 3 + b"t.", "contain one another many times, at byte 17"),  # 13 in eleven
    ],
)
def test_objects_hold_few_copies_of_others_for_each_instruction(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr("hf_face.data.verification_bin.MOST_COPIES", 1)
    with pytest.raises(ValueError, match=message):
        read_verification_bin(dump(tmp_path / "a.bin", content))


def test_one_image_in_many_pairs_is_held_once(tmp_path):
    images, _ = read_verification_bin(
        dump(tmp_path / "a.bin", ([np.frombuffer(bytes(1000), np.uint8)] * 200, [1] * 100))
    )
    assert len(images) == 200 and len({id(image) for image in images}) == 1


def test_odd_number_of_images(tmp_path):
    with pytest.raises(ValueError, match=r"a.bin has 3 images and 2 pairs"):
        read_verification_bin(dump(tmp_path / "a.bin", (IMAGES[:3], [True, False])))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"not a pickle", "is damaged"),
        (pickle.dumps((IMAGES, [True, False]))[:-20], "is damaged"),
        (IMAGES, r"expected \(images, same\), found list"),
        ((b"x", 3), r"expected two lists \(images, same\), found bytes and int"),
        ((None, []), r"expected two lists \(images, same\), found NoneType and list"),
        ((IMAGES, b"ab"), r"expected two lists \(images, same\), found list and bytes"),
        ((np.array(3), []), r"arrays of shape \(\) are not allowed"),
        (([IMAGES[0], "text"], [True]), "expected encoded bytes for image 1, found str"),
        (([b"", b"a"], [True]), "expected encoded bytes for image 0, found nothing"),
        ((IMAGES, ["yes", "no"]), "must be a bool"),
        (([np.zeros((2, 2, 3), np.uint8)] * 2, [True]), r"arrays of shape \(2, 2, 3\) are not allowed"),
        (([np.zeros(2, dtype=[("a", "i4")])] * 2, [True]), "not allowed"),
        ((IMAGES, np.array([1, 0], dtype=">i4")), "big-endian arrays are not allowed"),
    ],
)
def test_other_content(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_verification_bin(dump(tmp_path / "a.bin", content))
