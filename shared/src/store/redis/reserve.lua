-- KEYS: the reservation. ARGV: JSON, expires_at, now, after how many milliseconds the key goes by itself. Answers what the key stands for already.
local found = redis.call('HMGET', KEYS[1], 'j', 'x')
if found[1] and tonumber(found[2]) > tonumber(ARGV[3]) then return found[1] end
redis.call('HSET', KEYS[1], 'j', ARGV[1], 'x', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return false
