-- ARGV: prefix, now, how many.
local names = redis.call('ZRANGE', p .. 'circuits:latest', 0, tonumber(ARGV[3]) - 1, 'REV')
if #names == 0 then return {} end
return redis.call('HMGET', p .. 'circuits', unpack(names))
