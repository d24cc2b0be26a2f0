-- KEYS: sweep. ARGV: report as JSON.
redis.call('HSET', KEYS[1], 'report', ARGV[1])
