-- Returns the targets that restrict attempts, those that do so for the longest first, and the
-- counters of each. KEYS: targets, targets:until, targets:counters. ARGV: the time now; how many.
local names =
  redis.call('ZRANGE', KEYS[2], '+inf', '(' .. ARGV[1], 'BYSCORE', 'REV', 'LIMIT', 0, ARGV[2])
if #names == 0 then return { {}, {} } end
return { redis.call('HMGET', KEYS[1], unpack(names)), redis.call('HMGET', KEYS[3], unpack(names)) }
