-- ARGV: prefix, now, task. Record and content as of one moment.
local record = redis.call('HGET', p .. 'w:' .. ARGV[3], 'r')
if not record then return {} end
local c = content(ARGV[3])
return { record, c[1], c[2], c[3] }
