-- Stores the sweep's report. KEYS: sweep. ARGV: the report as JSON.
redis.call('HSET', KEYS[1], 'report', ARGV[1])
