"""The KV cache of a simulated engine, counted in blocks, exactly, without a look at single sequences.

May not be in here: who runs or is preempted (engine.py), time.

A sequence that decodes needs one more block in every block-size-th step. Which steps those are follows from its length
modulo the block size, so a histogram of these remainders tells the blocks of any number of steps ahead. Steps are
numbered from the engine's start; a sequence is known by its `base`: tokens that it holds in step n, less n.
"""


class KvBlocks:
    """Blocks in use. The capacity does not bound them: who takes some asks first, or is alone."""

    __slots__ = ("_growing", "capacity", "decoding", "size", "used")

    def __init__(self, tokens: int, size: int) -> None:
        """Raises ValueError if not even one block fits."""
        if size < 1 or tokens < size:
            raise ValueError(
                f"a KV cache of {tokens} tokens holds no block of {size}: give kv_tokens >= block_tokens >= 1"
            )
        self.size = size
        self.capacity = tokens // size
        self.used = 0
        self.decoding = 0  # sequences
        # Sequences whose next block comes in a step that leaves this remainder; twice over, so that a slice can run on.
        self._growing = [0] * (2 * size)

    def of(self, tokens: int) -> int:
        """Blocks that so many tokens of one sequence take."""
        return -(-tokens // self.size)

    def join(self, base: int) -> None:
        """A sequence begins to decode; what it holds already is in `used`."""
        self._count(base, 1)

    def leave(self, base: int, tokens: int) -> None:
        """A sequence that decodes, and holds so many tokens, gives its blocks back."""
        self._count(base, -1)
        self.used -= -(-tokens // self.size)

    def _count(self, base: int, one: int) -> None:
        place = (1 - base) % self.size
        self._growing[place] += one
        self._growing[place + self.size] += one
        self.decoding += one

    def next_growth(self, step: int) -> int:
        """growth(step, 1), of which there is the most need."""
        return self._growing[step % self.size]

    def growth(self, step: int, steps: int) -> int:
        """Blocks that the decoding sequences take in so many steps from this one on."""
        rounds, rest = divmod(steps, self.size)
        place = step % self.size
        return rounds * self.decoding + sum(self._growing[place : place + rest])

    def fitting(self, step: int, steps: int) -> int:
        """How many of the next steps the free blocks are enough for, at most `steps`."""
        free = self.capacity - self.used
        if self.decoding * (steps // self.size + 1) <= free:
            return steps
        rounds = max(free, 0) // self.decoding
        fit, free = rounds * self.size, free - rounds * self.decoding
        while fit < steps and self._growing[(step + fit) % self.size] <= free:
            free -= self._growing[(step + fit) % self.size]
            fit += 1
        return min(fit, steps)
