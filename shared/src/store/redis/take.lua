-- Takes slots of a target. The counters are stored as the text GENERATION LAST LAST_LATE. Returns
-- {1, the target, the last slot}, or {0, the target, the counters}, each '' for none.
-- KEYS: targets:counters, targets, targets:used. The first one always gets a new time to live,
-- because a script that runs on full memory removes that of its first key.
-- ARGV: the target's key; generation; floor; how many; 1 for late webhooks; the time now;
-- milliseconds until all counters expire unless one is written.
local counters, targets, used = unpack(KEYS)
local key, floor = ARGV[1], tonumber(ARGV[3])
redis.call('PEXPIRE', counters, ARGV[7])
local target = redis.call('HGET', targets, key) or ''
local stored = redis.call('HGET', counters, key) or ''
local generation, last, late = string.match(stored, '^(%S+) (%S+) (%S+)$')
if generation ~= ARGV[2] then return { 0, target, stored } end
local is_late = ARGV[5] == '1'
local taken = tonumber(is_late and late or last)
if taken < floor then return { 0, target, stored } end
taken = string.format('%.0f', taken + tonumber(ARGV[4]))
if is_late then late = taken else last = taken end
redis.call('HSET', counters, key, table.concat({ generation, last, late }, ' '))
redis.call('ZADD', used, ARGV[6], key)
redis.call('PEXPIRE', used, ARGV[7])
return { 1, target, taken }
