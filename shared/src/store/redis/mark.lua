-- Writes, to show that the server takes writes. KEYS: the key to write.
redis.call('SET', KEYS[1], 1)
