-- KEYS: what is written to see that writes are taken.
redis.call('SET', KEYS[1], 1)
