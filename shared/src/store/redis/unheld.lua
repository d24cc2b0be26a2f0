-- ARGV: prefix, now, from, until (bounds of task ids), how many entries to read. Answers where to go on, or '', and the records of
-- those that are unfinished and not in the due index.
local members = redis.call('ZRANGE', p .. 'time', ARGV[3], ARGV[4], 'BYLEX', 'LIMIT', 0, ARGV[5])
local found = {}
for _, task in ipairs(members) do
  local w = redis.pcall('HMGET', p .. 'w:' .. task, 's', 'd')
  if w.err == nil and w[1] and w[1] < DELIVERED and w[2] == '' then
    found[#found + 1] = redis.call('HGET', p .. 'w:' .. task, 'r') or nil
  end
end
return { #members == tonumber(ARGV[5]) and members[#members] or '', found }
