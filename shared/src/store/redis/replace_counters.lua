-- Replaces the slot counters of a target. Returns {1, '', ''}, or {0, the target, the counters},
-- each '' for none.
-- KEYS: targets, targets:counters, targets:used.
-- ARGV: the target's key; the counters that must be stored ('' for none); the counters to store;
-- the time now; milliseconds until all expire unless one is written.
local targets, counters, used = unpack(KEYS)
local key = ARGV[1]
local stored = redis.call('HGET', counters, key) or ''
if stored ~= ARGV[2] then return { 0, redis.call('HGET', targets, key) or '', stored } end
redis.call('HSET', counters, key, ARGV[3])
redis.call('ZADD', used, ARGV[4], key)
for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, ARGV[5]) end
return { 1, '', '' }
