"""The verifier of mathematical answers: is a completion's answer the gold answer?

``clean`` and ``lexer`` spell a text one way, the grammar (``parser`` and its parts) builds a
``tree``, ``compare`` decides by the form of two trees down to ``identity``, which decides by
values, ``extract`` finds the answer in a completion, and ``service`` runs all of it in workers that
are killed at a deadline.
"""

from rlvr.verifier.service import Conventions, verify, verify_batch

__all__ = ["Conventions", "verify", "verify_batch"]
