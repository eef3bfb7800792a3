"""The pure core: same arguments, same result.

May not be in here: asyncio, aiohttp, grpc, pynvml, time, logging, threads, files (data files that ship
in this package are read at import).
"""
