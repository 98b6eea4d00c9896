"""Faults of the published problem sets that a file does not show by itself: numbers and ids, no text.

Found by comparing the sets with one another. A problem is recognised by a fingerprint of its question, so a renamed
file, a part of a set or another copy of it is recognised too; `tests/problems` finds every number again in the real
data.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

from polythink.problems.problem import Problem

_TYPESETTING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)\b")
_OTHER = re.compile(r"(?:[^\w+\-=<>/*^!|]|_)+")


@lru_cache(maxsize=50_000)
def bare(question: str) -> str:
    """The question's letters, digits and operators in lower case: equal for copies that differ only in typesetting."""
    s = _TYPESETTING.sub("", question).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    return _OTHER.sub("", s).casefold()


def fingerprint(question: str) -> str:
    """Eight hex digits that stand for a question."""
    return hashlib.sha256(bare(question).encode()).hexdigest()[:8]


def known_faults(problems: Iterable[Problem]) -> dict[str, tuple[str, ...]]:
    """The keys of the problems known for each fault (the names in `SENTENCES`), faults without any left out."""
    found: dict[str, list[str]] = {fault: [] for fault in SENTENCES}
    for problem in problems:
        mark = fingerprint(problem.question)
        hits = {
            "shared": mark in IN_DAPO,
            "lost text": mark in LOST_TEXT,
            "lost base": LOST_BASE.get(mark) == problem.answer,
            "several answers": problem.key[:8] in SEVERAL_ANSWERS,
        }
        for fault, hit in hits.items():
            if hit:
                found[fault].append(problem.key)
    return {fault: tuple(keys) for fault, keys in found.items() if keys}


def known_notes(problems: Iterable[Problem]) -> tuple[str, ...]:
    """One sentence for each known fault of the set, to stand beside every number measured on it."""
    problems = tuple(problems)
    return tuple(
        f"{len(keys):,} of {len(problems):,} problems {SENTENCES[fault]}"
        for fault, keys in known_faults(problems).items()
    )


def _marks(text: str) -> frozenset[str]:
    return frozenset(text.split())


SENTENCES = {
    "shared": "occur both in DAPO-Math-17k and in the test set of MATH or AMC23: a model trained on DAPO is not clean"
    " on them",
    "lost text": "lost the text behind their first blank line when they were published: some cannot be answered",
    "lost base": "have a reference answer that lost its base (52_8 became 528): right answers to them are marked wrong",
    "several answers": "were published several times with different answers, of which the first is kept",
}

# DAPO-Math-17k: 20 questions with several answers (first eight digits of the id), in four of them -1 against a positive
# number, so that -1 may stand for "no answer" elsewhere too.
SEVERAL_ANSWERS = _marks("""
    1ddc5b1e 03eca081 93811b75 f09110c9 622f2e17 0ddfe815 b3bcfe10 31aeb632 af9089ec 2099951b 4b61ebe1 389adf2c
    22c60adf bac74bb3 400552b8 de2e8f5b ab0156ec 8790d8ae eaa8c9f8 cc639dd4
""")
MINUS_ONE = _marks("03eca081 22c60adf bac74bb3 de2e8f5b")

# The 316 integer problems of MATH that Parallel-R1 reports: 0-based rows 6 8 38 56 60 64 76 98 105 120 135 152 154 161
# 181 190 193 206 237 251 279 282 299 308 312 313; and row 12 of its AIME 2024.
LOST_TEXT = _marks("""
    90c0e675 3a7369ee 95139781 6598a808 2c8b4887 bb7869c6 7eed0597 8db8117c e8891696 a15ea561 9b449026 957851fb
    0463cbdd e8e1428c 5e8a191b a92ad39d 4881cc6d 49fade0d 497dba2d 9c57aa9b 982bd9cf ecfd2cad 869ea82f 79a2facf
    dfc8d334 d46ce0f3 982fb9e1
""")

# The same 316 problems: rows 16 44 45 89 218, with the answer as published.
LOST_BASE = {"e026c633": "528", "22d15aae": "409", "9aa391f6": "25168", "111898c2": "2045", "cb3e74b9": "43436"}

# Questions of DAPO-Math-17k that are also in the test set of MATH (828, six of them among the 316, which share two more
# in their cut form) or in AMC23 (rows 3 5 8 13 14 17 27 28). Another 1,515 or so are in the training set of MATH. AIME
# 2024 and 2025 share none.
IN_DAPO = _marks("""
    0075317c 008dd959 019e1cf2 0210cb92 02258d23 0265649a 02aaa2fa 02dafe5e 02e4cc85 03762406 03f1e76d 03f9236a
    040be43f 041ab3c3 04452bd4 04d8476e 05655273 0585b5d9 05d26f70 05d96d59 062747be 064c1faf 0655b78f 071b6465
    084a52fa 08db7f8e 08ef80bd 09700913 097b36a9 0a264747 0a4d1bd3 0a4ffd6f 0a55ef56 0b117ad1 0b316f3b 0b6b3523
    0bb0bbda 0bd7b093 0c8368c4 0c8844af 0d1dd35f 0d362fb2 0d628fa6 0d8b3871 0da7dea3 0deeeb70 0e67765d 0e6869b4
    0ea71406 0f1790e6 0f36a29a 0f56e1cd 0fe23f05 0fe37424 111e649b 116a0077 12820556 12d888e3 1352921f 136aa484
    13f276dc 1490ae29 14a38032 14a52910 1561f1f7 1578f450 15b8fddb 15c8a97b 16df9158 177d2404 17be7c1e 18a4664a
    18e36e4d 1946835d 19c02b1d 1a46dea5 1a60d2c0 1a87d96f 1ad9937b 1b16cd31 1b354c81 1b3a0d76 1b7c4267 1b84cdcc
    1c9a6f76 1d59d425 1da38679 1dcad6da 1ddaf5f7 1e3e045f 1e6b0631 1ea26c1f 1eb44d89 1f1f832e 1f7ffc28 1fdcc654
    1fefe136 204c2cb2 209bc794 20f396a7 211d31cd 21873347 21e55973 2209ef7c 22462898 224835af 228593fa 22bc714d
    23188cac 23d8dc7c 241be8fc 24b90e6b 24f27ba3 2590041a 259392a5 25a81bba 25eba321 265d5b6e 266d1801 2674a8f1
    26840607 26b0eb08 28074b1d 289be172 28f3e8d1 28f49114 2900f64c 29981d7c 29a0f65d 29e4affc 29f70c37 2ab3696b
    2ac9d14f 2b0ef4bc 2b10dcb6 2b1c9fa1 2b9b8e4a 2bf989b4 2c0211c8 2c17ae72 2c6a98b8 2c6adf84 2d435c5e 2dc1cc90
    2dfb71ca 2e03997d 2e44fc46 2e52de21 2eb3a2c7 2ecf707b 2ede78e0 2edfce1c 2f96b610 2fc58262 3001ed1d 3023797e
    302e7908 30685ec1 30c0a37a 30d354e2 31910d7c 3192549b 31a08f15 31f48cc1 32006b8c 32081878 32830060 329fcdcc
    337afbe1 3408b1f4 3501acda 3506b16b 351220de 35509829 361afbde 36251ca9 363cea23 3686d88e 3689d0e6 36f593f2
    36fb3645 37b7dc01 38129587 382a39e0 3841bc1c 3875ddb8 388ae4de 3904f07b 399efb87 39b8b45a 39e0cd70 39fe36a5
    3a5a941d 3a678af0 3a90c2c6 3a93755b 3b0aff49 3bea1df5 3c234dfc 3cb8bae6 3cc519a6 3d04f934 3d224c3f 3d31e10c
    3d52f6b1 3d695438 3da5c243 3db9ea6a 3eb512ba 3f58d49d 40be2e3a 40ca293b 41251303 4142e05c 4183d282 428a5df1
    42935ef1 4387af09 43c090ba 44c4eb1f 450d92e7 457b242d 45a49a49 45d0423b 465b66b6 468d4958 4705e612 475dca12
    476cf857 478e5d3d 47a3b385 47a5cec9 47b08697 47b8433d 47da81ee 47f8372a 481ae6ef 4841ff55 4896b775 48a03e9b
    49c689de 4b108e9a 4b444522 4b4ae3cf 4b6ef0e3 4b7dbd3e 4c203403 4c29df2d 4c7cc5ac 4c7f821d 4cb25f0d 4cfe8927
    4d0dea95 4d42771f 4d629054 4d642629 4d72ce44 4db0644c 4dd1ba20 4e3d56e2 4e73efcb 4f9e2d3e 508eee93 509054ac
    509461eb 50a24215 513a816d 51c58d3d 528ef315 532b853b 53322ee1 53a1cd29 54137792 54a71587 550bda0a 551e9e1c
    55889e0a 558f4c57 55bab565 55c5eb04 55dcbaa5 563ef826 5667e6c7 56756282 56bc3ebc 56e74666 571c36d0 5767528b
    57712103 578f5fae 57c5e4e1 5831c789 583bf7a3 5848856c 589b0645 58c86d9c 592cb48a 59c11293 5a38ab5d 5a3c079b
    5a677df7 5a7be09d 5a84b549 5ab2c02a 5ac1200c 5ad9bd6a 5b1ea13b 5b26c3f3 5b39d7c2 5b870075 5ba8d658 5ce91d14
    5da2baa2 5dc6a4e0 5de5abea 5e02d44e 5e1b28d7 5e6f6b9e 5e8a191b 5eb263a4 5ecd643d 5fa136b5 5fd7502c 5fe3a7cd
    6073f8dd 60981b5a 611c1a78 61a5f007 61b92614 61db5010 620af32a 62c64e98 62e62db0 62fdee3b 63057e6b 635e7d6a
    636ca6a8 63eeec47 647cfb4f 6497aaa9 64c69cc5 65612a9c 659f4fbb 66b21894 68098bb5 6888d945 68a312de 68bd6093
    68f4dfe2 69178aed 6931dd90 699a8929 6a147bf7 6a4417e3 6b3046ba 6b317ce8 6b8d6abc 6bcd7498 6c390d52 6c7fde69
    6d2c14c9 6dd4e5a4 6e6fe5a3 6f3ac518 6fcba36e 7027c26d 703f27a6 708efbaa 70b4e845 70eba498 70f79a46 710b1ae3
    7170826a 71895dd2 719577e3 71b10758 71e197c1 71e7e581 7209b046 7242726c 72da6808 7401490d 740f9169 741c0717
    7542cc9c 7579dbac 760e18bf 767a9c3a 77571575 77e57e69 78f40a18 7908734e 794bf81e 79a38625 79fb0b74 7a10416e
    7a4ebb35 7b0a3fd9 7b0cab6c 7b8b627b 7baa506a 7bdd4fc7 7c0ae419 7ca51aab 7cd78bf4 7cd89553 7d1b0d6e 7d96f839
    7d98da0a 7df216ed 7e488331 7ea0227c 7ed50c2f 7ed6e00b 7f2070ab 7f279781 7f5660df 7f80bea6 7fe6a502 7feb87ef
    7feff432 7ff78b46 80c80f1a 8131be8c 8166406c 82304ff2 82524d68 83413a93 83507cac 835e3b50 8366e508 83e92869
    8447c945 8462c8ac 854e3b59 85b76a45 85c5806e 862e0d86 864625a6 864f39ac 873f3585 87950759 88426c46 8850d05c
    887f6e3c 8896c78c 88b8cd37 88e3065f 88f52dd1 88f93d4f 89499bff 89765a65 89bb2c27 8a17f5e7 8aa55093 8ac03975
    8ae7464a 8aeb26b6 8af8ca53 8b0c0a4e 8b2343dd 8ba91030 8c017d98 8cbfba96 8cfc955d 8d2f801a 8d4dec48 8d92d8b0
    8d9b2b58 8e0925be 8eadfe52 8ebccc21 8fb7e980 90584b07 9064a68b 909fb46a 90b307c9 90ff0608 9155e7ee 921bad3b
    9277ca4f 93292e8c 93b8f06a 948180b0 94844673 950b4946 955647a0 957851fb 95b60d8a 960380ff 963c31c7 965a6945
    96bd9b98 96c599e7 971dc681 976dea89 97cf62b9 97d47a6e 980bf80a 987f80a1 98df5bde 98e460a4 98eae6c0 991704cb
    9922ca82 993ee453 9953aad8 9999f830 9a1dcb1c 9a970669 9a9c05ad 9bd5cd6f 9be223d1 9c5bc7e5 9cbb4ce0 9cef1439
    9cf697e3 9da05020 9daf875d 9db3bdbc 9e52f9c5 9e68bb11 9eb19c3e 9ed14bdf 9f3ba646 9fa7f2f3 9fcd2675 a01f0602
    a02b1e41 a13b4020 a17cd47e a1b836f7 a1c2784a a237bda9 a262de63 a309a144 a3120f2c a3caf48e a413b736 a4e3a807
    a52d31cd a55453b1 a5be2960 a5ea0245 a60b6a91 a6704ed5 a6c20393 a6dbcbe2 a728036e a84af7ff a9249b56 a94e20db
    a9901653 a9b38761 aa25655f aa38d0b9 aa8fb204 aaffd39e abdb7a16 ac1c253f ac98bfb1 acb5d312 ace6e6d6 af050812
    af2bf741 afd7cc51 afd95166 afe9f7f3 b000ac67 b02c0294 b0408052 b0858d42 b0dbfbb1 b1074d40 b19b011e b1a476f3
    b1b0313d b1f9aed3 b2502121 b295c852 b2c8a7fc b2fca4d5 b3266abf b33dd8a3 b43a7be3 b43d45e3 b448721a b45f5208
    b4632462 b49c1db6 b4c2ea58 b4c4501c b5a231d5 b5babb07 b64055d5 b6ccbeb1 b6d14b40 b6e3dcdf b7775502 b7a98f48
    b7d7602b b82cf39a b86b32e5 b8722374 b891e8ef b89f3557 b8bfa179 b8f03f86 b9113f4b b9863de4 b98d4872 b9bed120
    b9d22d36 b9df4e9e ba50e772 bae8af3c bbc03e6e bbc8edb2 bbfdbf91 bc26d269 bca8c059 bcb110eb bcd271d6 bd690b4d
    be49486d bef7c0dd bf335dde bf402fe6 c00037f9 c013f14b c0808835 c08ec7bc c0c94d44 c0f3e870 c1565db1 c182eb97
    c1c19d6e c1fbf871 c2dd422b c3adc306 c3d33b6b c3f426da c458da9f c4bc639a c4e69108 c4ee5468 c4fb7a3c c505e9d9
    c5b90834 c5ce8a60 c81f663f c8b62dd8 c90ad30b c9166748 c9a5d360 ca5a1278 ca6678eb ca6ee6d8 cabe946d cacf7abd
    cb54ebe4 cb90b8fd cba92f94 cbfbafff cc0e5b4d cc3ff536 cc61d496 cc7772c0 cc981d6f ccbe3fde ccc7cdd0 ccde864c
    cd1971ea cd78ce90 cdadc4ac cdbee85e ce19197e ce1c8c30 ce7745f9 ce9559e9 cfaebf67 cfd22573 d05d31c9 d07280a2
    d0839241 d0a930be d12fd15e d156dd53 d26f333c d26fab1b d299776f d32309cf d32a1ead d334ccfe d3480b4e d37b5cf3
    d3ea11f2 d43f38c9 d49abf02 d4caf270 d4e6c4af d515b5ce d529aeb3 d5e10b9c d5e625fe d66b3e71 d6bb548e d6c7c543
    d755bd3d d84f35ad d8a136ea d8bf782d d8c865ed d9447c9f d9e85d0a da43d999 da45496e da55296c dae7b59e daff4f7b
    dbe8ed3c dbee883c dc4323c8 dc4856b6 dceb61d0 de4bcb8b de8095eb de946f0f df3d5a24 df9b867b dfb15338 dfe5cd6f
    e04a7dbb e0518eb9 e111fd99 e12127ea e13cdbc4 e1cf3db4 e2284519 e27fb11c e28e6d8d e32bea71 e35891ea e3a19d75
    e48b7e2b e4d73d8f e525b910 e5343dfd e5512da6 e5ebbbc6 e64e4820 e663381b e6a1b960 e71002e9 e73956ba e7a7eff8
    e7c4ec31 e827dac3 e844443c e85f3159 e898ed57 e8da735c e8fef8ac e9617365 e9dd4c28 e9f68cd7 ea085658 ea9d9d3a
    eaaaa6c0 eb4dd082 eb507d43 ec23c88f eca0443a ece797e7 edc53177 eeba1230 ef43f7df ef73b206 efe6ddf4 effa99e6
    f033cfff f07e6447 f0bbc4db f0fee502 f1259972 f1d7c116 f1e67a12 f22f4886 f25ee1b2 f27420f6 f292c960 f29e755e
    f3fb1db4 f3fe4be0 f46274ee f54dafc9 f564805d f5aba146 f6a10046 f6c88651 f6cd06e6 f73336ad f7c53dd1 f80ceb8e
    f82e7e2c f8cdac48 f8f383d7 f981c427 f9f71ef4 fa11826f fa3433b3 fa40ee9c faebccfe faef65b8 faf51d98 fbdceda2
    fbe9bf61 fbebabdb fc0aa804 fc0d619f fc1785ee fc8c38f0 fd156eef fd2da835 fd8802f5 fdbf37c4 fdfddc4c fe498353
    feb2ffb5 feccfee5 fedfc0c6 feeb7d55 fef31cd6 fef62c71 ff17fd90 ffaeee78 ffb4e042 ffc27433
""")
