-- Replaces the slot counters of a target. Returns {1, '', ''}, or {0, the target, the counters},
-- each '' for none.
-- KEYS: targets:counters, targets, targets:revision, targets:until, targets:used. The first one
-- always gets a new time to live, because a script that runs on full memory removes that of its
-- first key.
-- ARGV: the target's key; the counters that must be stored ('' for none); the counters to store;
-- the time now; the time before which an unused target is deleted; milliseconds until all counters
-- expire unless one is written.
local counters, targets, revisions, restricting, used = unpack(KEYS)
local key = ARGV[1]
redis.call('PEXPIRE', counters, ARGV[6])
local stored = redis.call('HGET', counters, key) or ''
if stored ~= ARGV[2] then return { 0, redis.call('HGET', targets, key) or '', stored } end
redis.call('HSET', counters, key, ARGV[3])
redis.call('ZADD', used, ARGV[4], key)
purge_targets(targets, revisions, restricting, counters, used, ARGV[5])
for _, name in ipairs({ counters, used }) do redis.call('PEXPIRE', name, ARGV[6]) end
return { 1, '', '' }
