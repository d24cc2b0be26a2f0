-- ARGV: now, until when the id is retired. Answers the record that is there, or why there is none and will be none.
local record = redis.call('HGET', w, 'r')
if record then return { record, false } end
local retired = redis.call('HGET', w, 'z')
if not retired then
  retired = 'barred'
  retire(retired, ARGV[2])
end
return { false, retired }
