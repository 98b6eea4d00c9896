"""Keys and values in pages, for backends on a GPU: the arena, the plan of a step's attention, and the cache of both."""
